"""The market: one tape, from which candles, ids and answers follow exactly."""

import hashlib
import itertools
import time

import numpy as np
import pytest

from daemon.exchange import bars
from daemon.exchange.config import INTERVALS, SimConfig
from daemon.exchange.market import Market, Trade

NOW_NS = 1_800_000_017_300_000_000


def market(**settings: object) -> Market:
    """A small market at a fixed time."""
    return Market(SimConfig(**{"history_bars": 1_500, "symbols": 3, **settings}), NOW_NS)  # type: ignore[arg-type]


def live(made: Market, seconds: int) -> list[Trade]:
    """Trades of the next seconds."""
    out: list[Trade] = []
    made.listeners.append(out.append)
    made.advance(made.now_ms + seconds * 1000)
    return out


def fingerprint(trades: list[Trade], origin_ms: int) -> str:
    """Hash of a path, independent of the day it runs on."""
    rows = [(t.symbol, t.id, t.agg_id, t.price, t.qty, t.sold, t.time_ms - origin_ms, t.bid, t.ask) for t in trades]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_the_same_seed_gives_the_same_path() -> None:
    """Path, sizes and ids depend on the seed and the step alone, not on the wall clock nor on who asks what."""
    first, second = market(), Market(SimConfig(history_bars=1_500, symbols=3), NOW_NS + 86_400_000_000_000)
    second.klines(1, "1m", 500)
    one, two, other = live(first, 600), live(second, 600), market(seed=2)

    assert fingerprint(one, first.origin_ms) == fingerprint(two, second.origin_ms)
    assert fingerprint(live(other, 600), other.origin_ms) != fingerprint(one, first.origin_ms)


def test_history_goes_live_at_the_listed_prices() -> None:
    """The last price before the start is near the listed one."""
    made = market()
    for spec in made.specs:
        last = made.last[spec.index]

        assert last is not None
        assert last.price * 10**-spec.price_decimals == pytest.approx(spec.price, rel=0.05)


def test_ids_are_contiguous_from_history_into_live_trades() -> None:
    """Historical ids continue into published ones, per symbol, trades and aggregates alike."""
    made = market()
    before = {i: made.trades(i, 1)[-1] for i in range(3)}
    published = live(made, 400)
    for i in range(3):
        mine = [trade for trade in published if trade.symbol == i]

        assert [trade.id for trade in mine] == list(range(before[i].id + 1, before[i].id + 1 + len(mine)))
        assert made.trades(i, 1_000, mine[0].id - 300)[300:] == mine[: 1_000 - 300]
        assert [t.time_ms for t in mine] == sorted(t.time_ms for t in mine)


def test_aggregates_group_trades_in_their_own_id_space() -> None:
    """Aggregates cover every trade once, in order, with contiguous ids of their own."""
    made = market()
    live(made, 300)
    found = made.agg_trades(0, 1_000)
    ids = [agg.id for agg in found]

    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert all(after.first_id == before.last_id + 1 for before, after in itertools.pairwise(found))
    assert any(agg.last_id > agg.first_id for agg in found)
    assert ids[-1] < found[-1].first_id
    assert made.agg_trades(0, 10, from_id=ids[5]) == found[5:15]
    assert made.agg_trades(0, 10, start_ms=found[7].time_ms)[0].time_ms == found[7].time_ms
    assert made.agg_trades(0, 10, end_ms=found[-5].time_ms)[-1].time_ms == found[-5].time_ms
    for agg in found[:200]:
        parts = made.trades(0, agg.last_id - agg.first_id + 1, agg.first_id)

        assert (sum(t.qty for t in parts), {t.price for t in parts}) == (agg.qty, {agg.price})
        assert {t.agg_id for t in parts} == {agg.id}


@pytest.mark.parametrize("interval", ["1s", "1m", "3m", "1h", "1w", "1M"])
def test_candles_equal_the_aggregation_of_their_trades(interval: str) -> None:
    """Open, high, low, close, volume and count of every period with trades are exact, the running one included."""
    made = market()
    made.advance(made.now_ms + 123_456)
    rows = made.klines(0, interval, 400)
    first = made.trades(0, 1, 0)[0]
    checked = 0
    for row in rows.tolist():
        end = bars.next_open(row[bars.TIME], interval)
        if row[bars.TIME] < made.origin_ms:
            continue
        inside = (
            [t for t in made.trades(0, 10**6, first.id) if row[bars.TIME] <= t.time_ms < end] if checked < 40 else []
        )
        if not inside:
            continue
        checked += 1

        assert row[bars.OPEN : bars.COUNT + 1] == [
            inside[0].price,
            max(t.price for t in inside),
            min(t.price for t in inside),
            inside[-1].price,
            sum(t.qty for t in inside),
            sum(t.qty * t.price for t in inside),
            len(inside),
        ]
    assert checked or interval in {"1h", "1w", "1M"}


@pytest.mark.parametrize("interval", INTERVALS)
def test_every_interval_is_complete_and_aggregates_from_finer_ones(interval: str) -> None:
    """Opening times follow each other without holes, and volumes add up from the finest candles that reach as far."""
    made = market()
    made.advance(made.now_ms + 5_000)
    rows = made.klines(1, interval, 200)
    opens = rows[:, bars.TIME].tolist()

    assert opens == [opens[0], *(bars.next_open(time_ms, interval) for time_ms in opens[:-1])]
    assert (rows[:, bars.HIGH] >= rows[:, [bars.OPEN, bars.CLOSE, bars.LOW]].max(axis=1)).all()
    assert (rows[:, bars.LOW] <= rows[:, [bars.OPEN, bars.CLOSE]].min(axis=1)).all()
    if interval not in {"1s", "1m"}:
        start = opens[-2]
        fine = made.klines(1, "1m", 200_000, start_ms=start)

        assert fine[:, bars.VOLUME].sum() == rows[-2:, bars.VOLUME].sum()
        assert fine[:, bars.HIGH].max() == rows[-2:, bars.HIGH].max()
        assert int(fine[-1, bars.CLOSE]) == int(rows[-1, bars.CLOSE])


def test_older_candles_join_the_fine_history_continuously() -> None:
    """Across the join the price moves no more than elsewhere."""
    made = market()
    rows = made.klines(0, "1m", 60, start_ms=made.origin_ms // 60_000 * 60_000 - 1_800_000)
    moves = np.abs(np.diff(np.log(rows[:, bars.CLOSE])))

    assert len(rows) > 40
    assert moves.max() < 0.05
    assert len(made.klines(0, "1d", 1_000)) == 1_000


def test_limits_of_a_candle_query_are_inclusive_opening_times() -> None:
    """A start gives the oldest candles from it, an end the newest up to it."""
    made = market()
    start = made.live_ms - 100_000
    rows = made.klines(0, "1s", 10, start_ms=start)

    assert rows[:, bars.TIME].tolist() == [start + 1000 * k for k in range(10)]
    assert made.klines(0, "1s", 10, start_ms=start, end_ms=start + 3_000)[-1, bars.TIME] == start + 3_000
    assert made.klines(0, "1s", 10, end_ms=start)[-1, bars.TIME] == start
    assert len(made.klines(0, "1s", 10, start_ms=made.now_ms + 60_000)) == 0


def test_a_symbol_without_trades_gets_flat_candles() -> None:
    """Empty periods repeat the last close and have no volume."""
    made = market(trades_per_s=0.05)
    made.advance(made.now_ms + 60_000)
    rows = made.klines(0, "1s", 200)
    empty = rows[rows[:, bars.COUNT] == 0]

    assert len(rows) == 200
    assert len(empty) > 100
    assert (empty[:, bars.OPEN] == empty[:, bars.LOW]).all()
    assert (empty[:, bars.VOLUME] == 0).all()


def test_a_crash_moves_the_price_for_good_and_keeps_candles_exact() -> None:
    """After a forced fall trades go on from the lower price, in later blocks too."""
    made, calm = market(), market()
    made.advance(made.now_ms + 10_000)
    calm.advance(made.now_ms)
    made.crash(0, 0.9)
    fallen, normal = live(made, 600), live(calm, 600)
    pairs = [(a.price, b.price) for a, b in zip(fallen, normal, strict=True) if a.symbol == 0]

    assert [t.id for t in fallen] == [t.id for t in normal]
    assert all(low == pytest.approx(high * 0.9, rel=1e-3) for low, high in pairs)
    assert [t.price for t in fallen if t.symbol == 1] == [t.price for t in normal if t.symbol == 1]
    row = made.klines(0, "1M", 1)[-1]
    assert int(row[bars.CLOSE]) == [t for t in fallen if t.symbol == 0][-1].price


def test_twenty_thousand_seconds_of_eight_symbols_are_fast() -> None:
    """A training set of 1s candles takes under a second on a quiet core."""
    made = Market(SimConfig(), NOW_NS)
    began = time.process_time()
    for symbol in range(8):
        start = made.live_ms - 20_000_000
        while start < made.live_ms:
            start = int(made.klines(symbol, "1s", 1_000, start_ms=start)[-1, bars.TIME]) + 1_000

    assert time.process_time() - began < 1.0


def test_long_bars_and_many_symbols_work() -> None:
    """Hourly planted bars and a hundred symbols build and publish."""
    hourly = Market(SimConfig(bar_s=3_600, symbols=2), NOW_NS)
    many = market(symbols=100, history_bars=600)

    assert len(hourly.klines(0, "1h", 1_000)) == 1_000
    assert hourly.live_ms % 3_600_000 == 0
    assert len({t.symbol for t in live(many, 30)}) == 100
    assert len(many.klines(99, "1d", 900)) == 900


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("symbols", 0),
        ("bar_s", 0),
        ("correlation", 1.5),
        ("trades_per_s", 0.0),
        ("trades_per_s", 999.0),
        ("touch_notional", -1.0),
    ],
)
def test_impossible_markets_are_refused(name: str, value: float) -> None:
    """The message names the setting."""
    with pytest.raises(ValueError, match=name):
        SimConfig(**{name: value})  # type: ignore[arg-type]
