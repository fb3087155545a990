"""The command ``stress``: what shocks would do to the portfolio that is held, or to a given one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Config, Json, print_json, settings_from
from daemon.domain.errors import ConfigError, Unreachable, UsageError

if TYPE_CHECKING:
    from daemon.backtest.stress_portfolio import Given
    from daemon.settings import Settings

GROUP = "Research"
REREADS = 5
"""Times that the daemon is asked again when it traded while it was asked."""

PortfolioFile = Annotated[
    Path | None,
    typer.Option(
        "--portfolio",
        metavar="FILE",
        help="Pairs with quantities or weights, .json, .csv or .toml; when left out what the daemon holds, or its ledger.",
    ),
]
Cash = Annotated[
    float | None,
    typer.Option(
        "--cash", metavar="AMOUNT", min=0.0, help="Quote currency beside the file's pairs; what weights leave over."
    ),
]
Weights = Annotated[
    bool, typer.Option("--weights", help="Numbers that the file does not name are weights, not quantities.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of candles; <state_dir>/data/<exchange> when left out."),
]
Timeframe = Annotated[str, typer.Option("--timeframe", "-t", help="Candles to read.")]
Leader = Annotated[
    str, typer.Option("--leader", metavar="PAIR", help="What betas refer to; BTC in the quote currency when left out.")
]
Days = Annotated[int, typer.Option("--days", min=60, max=3650, help="Newest days that estimates are made of.")]
Horizon = Annotated[int, typer.Option("--horizon", min=1, max=365, help="Days of a drawn path.")]
Paths = Annotated[int, typer.Option("--paths", min=100, max=20_000, help="Paths to draw.")]
Participation = Annotated[
    float, typer.Option("--participation", min=0.001, max=1.0, help="Share of the volume that a sale takes.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Where chance begins.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write tables and plots as one page.")]


def stress(  # noqa: PLR0913, PLR0917 - one per option
    portfolio: PortfolioFile = None,
    cash: Cash = None,
    weights: Weights = False,
    data: Data = None,
    timeframe: Timeframe = "1h",
    leader: Leader = "",
    days: Days = 365,
    horizon: Horizon = 30,
    paths: Paths = 2000,
    participation: Participation = 0.1,
    seed: Seed = 0,
    html: Html = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show what historical and hypothetical shocks would do to the portfolio: losses, risk, time to sell, drawn paths.

    Example: ballast stress --portfolio mine.csv --cash 5000 --data data/binance --html stress.html
    """
    if portfolio is None and (cash is not None or weights):
        raise UsageError("--cash and --weights go with --portfolio FILE: the daemon and its ledger know their own")
    if html is not None and html.is_dir():
        raise UsageError(f"--html {html}: is a folder; name the file to write")
    settings = settings_from(config)
    from daemon.backtest.stress import Asked
    from daemon.backtest.stress import stress as stressed
    from daemon.backtest.stress_market import load_market
    from daemon.backtest.stress_portfolio import held, quote_of, read_portfolio, valued

    if portfolio is not None:
        known, origin = read_portfolio(portfolio, weights=weights), str(portfolio)
    else:
        known, origin = _live(settings)
    quote = quote_of(known, settings.quote)
    market = load_market(
        data or settings.state_path / "data" / settings.exchange.id,
        held(known),
        leader=leader or f"BTC/{quote}",
        timeframe=timeframe,
    )
    prices = dict(zip(market.pairs, market.price.tolist(), strict=True))
    mine = valued(known, prices, cash=cash, equity=float(settings.paper.cash), quote=quote, origin=origin)
    found = stressed(mine, market, Asked(days, horizon, paths, participation, seed))
    page = ""
    if html is not None:
        from daemon.backtest.stress_page import write_stress

        page = str(write_stress(found, html))
    if json:
        from daemon.backtest.stress_show import document

        print_json({**document(found), "html": page})
        return
    from daemon.backtest.report.tables import console, print_grids
    from daemon.backtest.stress_show import grids

    print_grids(grids(found), console())
    if page:
        typer.echo(f"page: {page}")


def _live(settings: "Settings") -> "tuple[Given, str]":
    """Return what the running daemon holds; without one, what the ledger says, valued at the newest candles."""
    from daemon.backtest.stress_portfolio import given
    from daemon.cli.client import address, call

    try:
        money = call(settings, "equity")["cash"]
        rows = call(settings, "positions")["positions"]
        for _ in range(REREADS):  # a fill between the two answers would be counted twice, or not at all
            before, money = money, call(settings, "equity")["cash"]
            if money == before:
                break
            rows = call(settings, "positions")["positions"]
        where = f"the daemon at {address(settings)}"
    except Unreachable as silent:
        return _kept(settings, silent)
    # A price that the daemon has not seen yet is 0: then that of the candles holds.
    priced = [{name: row[name] for name in ("symbol", "qty", "price") if row.get(name)} for row in rows]
    return given({"positions": [row for row in priced if "qty" in row], "cash": money}), where


def _kept(settings: "Settings", silent: Unreachable) -> "tuple[Given, str]":
    """Return what the ledger says is held. Raises what was silent when there is no ledger either."""
    from daemon.backtest.stress_portfolio import given
    from daemon.edge.ledger_read import LedgerReader
    from daemon.service.place import ledger_place

    try:
        with LedgerReader(ledger_place(settings)) as reader:
            books = reader.books()
            where = f"the ledger {reader.place}"
    except ConfigError as error:
        raise Unreachable(f"{silent}; nor is there a ledger to read ({error}); --portfolio FILE gives one") from None
    return given(
        {"quantities": {pair: str(qty) for pair, qty in books.positions.items()}, "cash": str(books.cash)}
    ), where


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel=GROUP)(stress)
