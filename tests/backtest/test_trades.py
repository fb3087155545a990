"""The backtest on recorded trades: the bars are those of the trades, orders meet the first trade after their latency."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from daemon.backtest.data.files import Candles, write
from daemon.backtest.data.trades import TRADE, Facts, Trades, write_day
from daemon.backtest.history import Panel, make_panel
from daemon.backtest.trades import TradeSession, ticks
from daemon.backtest.venue import Rates, VenueConfig
from daemon.cli.main import run
from daemon.core.bars import BarBuilder
from daemon.domain.events import Event
from daemon.domain.market import NS_PER_S, Bar, Tick
from daemon.domain.orders import Side, Tif
from daemon.matching.bars import Costs
from tests.backtest.market import (
    BEGIN_NS,
    BTC,
    ETH,
    NO_COSTS,
    WARM,
    Scripted,
    Wish,
    engine,
    limits_with,
    replayed,
    rules,
)

BAR_NS = 60 * NS_PER_S
FIRST_NS = BEGIN_NS + WARM * BAR_NS
CONFIG = """
universe = ["BTC/USDT"]
bar = "1m"
state_dir = "{var}"
strategy = "strategies.examples.equal_weight:EqualWeight"
[risk]
max_weight = 0.9
[feed]
backfill_bars = 60
[forecast]
lookback = 10
"""


def trades(rows: "list[tuple[float, float, float]]") -> Trades:
    """Return trades from (seconds after the first bar's open, price, size)."""
    out = np.empty(len(rows), dtype=TRADE)
    for number, (seconds, price, amount) in enumerate(rows):
        out[number] = (1_000 + number, FIRST_NS + round(seconds * NS_PER_S), price, amount, False)
    return out


def walk(seed: int, price: float, minutes: int, *, each_s: float = 1.5) -> Trades:
    """Return a random walk of trades, one or so a second."""
    rng = np.random.default_rng(seed)
    count = int(minutes * 60 / each_s)
    at = np.sort(rng.uniform(0.0, minutes * 60.0, count))
    prices = np.round(price * np.exp(np.cumsum(rng.normal(0.0, 3e-4, count))), 2)
    sizes = np.round(rng.exponential(3.0, count) + 0.001, 5)
    return trades(list(zip(at.tolist(), prices.tolist(), sizes.tolist(), strict=True)))


def built(symbol: str, rows: Trades, minutes: int) -> "list[Bar]":
    """Return the bars that the daemon's own builder makes of trades."""
    builder = BarBuilder(symbol, BAR_NS)
    builder.start(FIRST_NS, last_price=float(rows[0]["price"]), partial=False)
    bars = [bar for tick in ticks(symbol, [rows]) for bar in builder.on_tick(tick)]
    return [*bars, *builder.on_time(FIRST_NS + minutes * BAR_NS + 1, 1)]


def session(
    every: "dict[str, Trades]", minutes: int, wish: Wish, *, costs: Costs = NO_COSTS, **changes: object
) -> "tuple[TradeSession, Scripted, Panel]":
    """Return a session over trades, its strategy and the panel of their candles."""
    values = np.full((WARM + minutes, len(every), 5), np.nan)
    for at, (symbol, rows) in enumerate(every.items()):
        first = float(rows[0]["price"])
        values[:WARM, at] = (first, first, first, first, 1_000.0)
        for bar in built(symbol, rows, minutes):
            values[(bar.open_ns - BEGIN_NS) // BAR_NS, at] = (bar.open, bar.high, bar.low, bar.close, bar.volume)
    opens = BEGIN_NS + BAR_NS * np.arange(len(values), dtype=np.int64)
    panel = make_panel(tuple(every), BAR_NS, opens, values)
    worker = Scripted(wish)
    made = TradeSession(
        engine(tuple(every), bar_ns=BAR_NS, **changes),
        worker,
        panel,
        trades={symbol: [rows] for symbol, rows in every.items()},
        first=WARM,
        instruments={symbol: rules(symbol) for symbol in every},
        venue=VenueConfig(
            quote="USDT",
            rates=(Rates(Decimal(0), Decimal("0.001"), Decimal("0.001")),),
            costs=costs,
            latency_ns=100_000_000,
            bar_ns=BAR_NS,
        ),
        cash=Decimal(100_000),
        rearm_ns=24 * 3_600 * NS_PER_S,
    )
    return made, worker, panel


def test_the_bars_decided_on_are_those_of_the_trades() -> None:
    """Two pairs, ten minutes: every closed bar equals the candle of the same trades, quiet minutes included."""
    every = {BTC: walk(1, 100.0, 10), ETH: walk(2, 7.0, 10, each_s=25.0)}
    made, worker, panel = session(every, 10, lambda _: None)
    made.run()
    told = {(bar.symbol, bar.open_ns): bar for one in worker.asked for bar in one.bars if bar.open_ns >= FIRST_NS}

    assert len(worker.asked) == 10
    assert len(told) == 20
    for (symbol, open_ns), bar in told.items():
        candle = panel.values[(open_ns - BEGIN_NS) // BAR_NS, panel.symbols.index(symbol)]
        assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == pytest.approx(tuple(candle), rel=1e-12)


def test_an_order_meets_the_first_trade_after_its_latency() -> None:
    """Decided half a second after the close (the grace), it arrives 100 ms later; the trade before that is not its."""
    rows = trades(
        [
            (1, 100.0, 1.0),
            (59, 100.0, 5_000.0),
            (60.55, 100.02, 1.0),
            (60.7, 100.05, 1.0),
            (70, 101.0, 1.0),
            (119, 101.0, 1.0),
        ]
    )
    wishes = iter([[0.5], None])
    made, _, _ = session({BTC: rows}, 2, lambda _: next(wishes))
    made.run()
    (fill,) = made.venue.fills

    assert fill.price == Decimal("100.05")
    assert fill.ts_event_ns == FIRST_NS + round(60.7 * NS_PER_S)


def test_a_stop_is_judged_on_every_trade() -> None:
    """Entry at 100, stop 5 % below: the trade at 94 hits it, the next one after the latency fills the exit."""
    rows = trades(
        [
            (1, 100.0, 1.0),
            (59, 100.0, 50_000.0),
            (61, 100.0, 1.0),
            (70, 94.0, 1.0),
            (70.05, 93.0, 1.0),
            (71, 94.5, 1.0),
            (119, 94.0, 1.0),
        ]
    )
    wishes = iter([[0.5], None])
    made, _, _ = session({BTC: rows}, 2, lambda _: next(wishes), limits=limits_with(stop_loss=0.05))
    record = made.run()
    _, sell = made.venue.fills

    assert record.alert_counts["stop_loss"] == 1
    assert (sell.side, sell.price) == (Side.SELL, Decimal("94.50"))


def test_a_resting_order_fills_by_what_trades_through_it() -> None:
    """At the touch it waits; a trade a tick below fills as much as it is large, at the limit."""
    rows = trades(
        [(1, 100.0, 1.0), (59, 100.0, 5_000.0), (61, 100.01, 1.0), (80, 99.5, 2.0), (81, 99.4, 1.5), (119, 100.0, 1.0)]
    )
    wishes = iter([[0.5], None])
    made, _, _ = session(
        {BTC: rows},
        2,
        lambda _: next(wishes),
        costs=Costs(0.0005, 0.0, 1.0),
        tif=Tif.GTC,
        limits=limits_with(order=Tif.GTC),
    )
    made.run()

    assert [fill.qty for fill in made.venue.fills] == [Decimal("2.00000"), Decimal("1.50000")]
    assert {fill.maker for fill in made.venue.fills} == {True}
    assert len({fill.price for fill in made.venue.fills}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_equity_follows_from_fills_and_closes_alone(seed: int) -> None:
    """Random trades and wishes: the venue's balances are the engine's books, and equity recomputed agrees at every close."""
    rng = np.random.default_rng(seed)
    every = {BTC: walk(seed, 100.0, 12), ETH: walk(seed + 50, 7.0, 12)}
    made, _, panel = session(
        every,
        12,
        lambda _: rng.uniform(0.0, 0.45, 2).tolist(),
        costs=Costs(0.0002, 0.003, 0.3),
        limits=limits_with(stop_loss=0.004),
    )
    record = made.run()
    equity = [float(one) for one in record.equity]
    balances = {asset: amount for asset, amount in made.venue.balances.items() if amount}

    assert len(made.venue.fills) > 5
    assert replayed(made, panel) == pytest.approx(equity, rel=1e-9)
    assert balances.pop("USDT") == made.engine.state.account.cash
    assert balances == {s.partition("/")[0]: q for s, q in made.engine.state.account.positions.items()}


def test_the_command_fills_from_recorded_trades(tmp_path: Path) -> None:
    """`ballast backtest --trades` on files as `data fetch --trades` writes them: each fill at the time of a trade."""
    rows = walk(1, 100.0, 40, each_s=0.5)
    bars = built(BTC, rows, 40)
    warm = [(bars[0].open_ns - BAR_NS * back, (100.0, 100.0, 100.0, 100.0, 50.0)) for back in range(80, 0, -1)]
    candles = warm + [(bar.open_ns, (bar.open, bar.high, bar.low, bar.close, bar.volume)) for bar in bars]
    times = np.array([open_ns // 1_000_000 for open_ns, _ in candles])
    write(tmp_path / "data" / "BTC_USDT-1m.parquet", Candles(times, np.array([values for _, values in candles])))
    covered = ((FIRST_NS, FIRST_NS + 40 * BAR_NS),)
    day = tmp_path / "data" / "BTC_USDT-trades" / "2024-01-01.parquet"
    write_day(day, rows, Facts(covered=covered, ids="contiguous"))
    (tmp_path / "ballast.toml").write_text(CONFIG.format(var=tmp_path / "var"))
    start = FIRST_NS // NS_PER_S - BEGIN_NS // NS_PER_S
    given = ["-c", str(tmp_path / "ballast.toml"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    code = run(
        ["backtest", *given, "--start", f"2024-01-01T00:{start // 60:02d}", "--end", "2024-01-01T00:50", "--trades"]
    )
    fills = pd.read_parquet(tmp_path / "out" / "fills.parquet")

    assert code == 0
    assert len(fills) > 0
    assert set(fills["date"].astype("int64")) <= set(rows["ts_ns"].tolist())


@pytest.mark.parametrize("has_candle", [True, False])
def test_the_volume_of_the_bar_an_order_meets_is_not_known_to_it(has_candle: bool) -> None:
    """A minute without trades, then a busy one: nothing fills in it, since impact and share go by the quiet bar before."""
    every = {
        BTC: trades([(1, 100.0, 1.0), (59, 100.0, 5_000.0), (121, 100.0, 5_000.0), (179, 100.0, 5_000.0)]),
        ETH: walk(3, 7.0, 3),
    }
    wishes = iter([None, [0.5, 0.0], None])
    made, worker, panel = session(every, 3, lambda _: next(wishes))
    if not has_candle:
        panel.values[WARM + 2, 0] = np.nan
    record = made.run()

    assert len(worker.asked) == 3
    assert record.orders == 1
    assert made.venue.fills == []


def test_every_trade_is_measured_by_the_volume_of_the_bar_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first trade of a run on, the first ones after a close included; a missing candle is a volume of 0."""
    every = {BTC: walk(1, 100.0, 8), ETH: walk(2, 7.0, 8, each_s=25.0)}
    made, _, panel = session(every, 8, lambda _: None)
    panel.values[WARM - 1] = (100.0, 100.0, 100.0, 100.0, 777.0)
    panel.values[WARM + 3, 0] = np.nan
    given: list[tuple[float, float]] = []
    emit = made._emit

    def heard(event: Event) -> None:
        if isinstance(event, Tick):
            before = (event.ts_recv_ns - BEGIN_NS) // BAR_NS - 1
            volume = panel.values[before, panel.symbols.index(event.symbol), 4]
            given.append((made.venue._volumes[event.symbol], 0.0 if np.isnan(volume) else float(volume)))
        emit(event)

    monkeypatch.setattr(made, "_emit", heard)
    made.run()

    assert len(given) == sum(map(len, every.values()))
    assert {expected for _, expected in given} > {0.0, 777.0}
    assert all(volume == expected for volume, expected in given)
