"""``data fetch``: candles, trades and supplies."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import (
    CHECK_FAILED,
    Config,
    Json,
    data_folder,
    print_json,
    print_table,
    progress_bars,
    settings_from,
    time_of,
)
from daemon.cli.data_common import BarTimeframe, Data, now_ms, pairs_of
from daemon.domain.errors import UsageError

if TYPE_CHECKING:
    from daemon.backtest.data.asking import Asker
    from daemon.backtest.data.fetch import Progress
    from daemon.settings import Settings

COINGECKO = "https://api.coingecko.com/api/v3"


def fetch(  # noqa: PLR0913, PLR0917 (the options of a command)
    pairs: Annotated[list[str] | None, typer.Argument(metavar="[PAIR]...", help="The universe when left out.")] = None,
    named: Annotated[list[str] | None, typer.Option("--pairs", metavar="PAIR,…", help="The same as an option.")] = None,
    timeframe: BarTimeframe = "",
    since: Annotated[str, typer.Option("--since", "--start", help="From this day (UTC), for example 2020-05-11.")] = "",
    until: Annotated[str, typer.Option("--until", "--end", help="To this day, exclusive; now when left out.")] = "",
    trades: Annotated[bool, typer.Option("--trades", help="Single trades instead of candles.")] = False,
    supply: Annotated[bool, typer.Option("--supply", help="Today's circulating supply, from CoinGecko.")] = False,
    supply_url: Annotated[str, typer.Option("--supply-url", help="Where CoinGecko's API lies.")] = COINGECKO,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Fetch candles, trades or supplies; a second run goes on where the first one ended, Ctrl-C keeps what came."""
    settings = settings_from(config)
    where = data_folder(settings, data)
    chosen = pairs_of(pairs, named) or list(settings.universe)
    if supply:
        if trades or since or until or timeframe:
            raise UsageError("--supply is of today: leave --trades, --timeframe, --since and --until out")
        _supply(where, chosen, supply_url, json=json)
        return
    if trades and timeframe:
        raise UsageError("--trades have no timeframe; `ballast data bars` makes candles of them")
    if not since:
        raise UsageError("--since is missing: from which day, for example --since 2020-05-11?")
    present = now_ms()
    since_ms = time_of("--since", since) // 1_000_000
    until_ms = min(time_of("--until", until) // 1_000_000, present) if until else present
    if since_ms >= until_ms:
        raise UsageError(f"--since {since} does not lie before {until or 'now'}")
    from daemon.backtest.data.folder import fetch as fetch_candles
    from daemon.backtest.data.trade_folder import fetch_trades

    async def one(asker: "Asker", pair: str, progress: "Progress") -> Any:
        if trades:
            since_ns, until_ns = since_ms * 1_000_000, until_ms * 1_000_000
            return await fetch_trades(asker, where, pair=pair, since_ns=since_ns, until_ns=until_ns, progress=progress)
        return await fetch_candles(
            asker,
            where,
            pair=pair,
            timeframe=timeframe or settings.bar,
            since_ms=since_ms,
            until_ms=until_ms,
            progress=progress,
        )

    _fetch(settings, where, chosen, one, json=json)


def _fetch(
    settings: "Settings",
    where: Path,
    pairs: list[str],
    one: "Callable[[Asker, str, Progress], Awaitable[Any]]",
    *,
    json: bool,
) -> None:
    """Fetch pair by pair, with a progress bar each."""
    import asyncio

    import msgspec

    from daemon.cli.data_common import asker_of

    async def work() -> list[Any]:
        asker = asker_of(settings)
        done: list[Any] = []
        try:
            for pair in pairs:
                with progress_bars(keep=True, percent=True) as tell:
                    tell(pair, 0, None)
                    done.append(await one(asker, pair, partial(tell, pair)))
        finally:
            await asker.exchange.close()
        return done

    rows = asyncio.run(work())
    if json:
        print_json({"folder": str(where), "files": msgspec.to_builtins(rows)})
    else:
        print_table([{"file": one.file, "new rows": one.rows, "rows": one.total} for one in rows])


def _supply(where: Path, pairs: list[str], url: str, *, json: bool) -> None:
    """Fetch the supply of every base asset; exit 3 when some are not known."""
    import msgspec
    import numpy as np

    from daemon.backtest.data.supply import FILE, fetch_supply

    today = str(np.datetime64(now_ms(), "ms").astype("datetime64[D]"))
    assets = [pair.partition("/")[0] for pair in pairs]
    rows, missing = fetch_supply(where / FILE, assets, today=today, base_url=url)
    if json:
        document = {"ok": not missing, "file": str(where / FILE), "date": today, "missing": missing}
        print_json({**document, "assets": msgspec.to_builtins(rows)})
    else:
        print_table(
            [
                {
                    "asset": one.asset,
                    "supply": f"{one.supply:.15g}",
                    "coin": one.coin,
                    "row": "new" if one.new else f"{today} was here",
                }
                for one in rows
            ]
        )
        for one in rows:
            if one.others:
                more = f" and {len(one.others) - 3} more" if len(one.others) > 3 else ""
                typer.echo(f"{one.asset}: {one.coin} has the largest market cap; not {', '.join(one.others[:3])}{more}")
        for asset in missing:
            typer.echo(f"{asset}: CoinGecko knows no coin in circulation; write a line for it into {where / FILE}")
    raise typer.Exit(CHECK_FAILED if missing else 0)
