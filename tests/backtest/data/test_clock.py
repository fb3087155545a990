"""Shifted clocks: found by volumes to the second, and by the market where only other pairs can tell; real history has none."""

from pathlib import Path

import numpy as np
import pytest

from daemon.backtest.data.clock import Market, by_volume
from daemon.backtest.data.files import Candles, read, write
from daemon.backtest.data.folder import check, chosen, list_files
from tests.backtest.data.test_files import HOUR, START

LATER = START + 10**12


def pair(seed: int, count: int, *, beta: float = 1.0, noise: float = 0.004) -> Candles:
    """Return hours of a pair that moves with a market of its own making."""
    market = np.random.default_rng(0).normal(0.0, 0.005, count)
    rng = np.random.default_rng(seed)
    closes = 100.0 * np.exp(np.cumsum(beta * market + rng.normal(0.0, noise, count)))
    opens = np.concatenate(([100.0], closes[:-1]))
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    times = START + HOUR * np.arange(count, dtype=np.int64)
    return Candles(times, np.stack([opens, high, low, closes, rng.lognormal(3.0, 1.0, count)], axis=1))


def market_of(pairs: list[Candles]) -> Market:
    """Return the market that pairs make."""
    first, last = min(int(one.times[0]) for one in pairs), max(int(one.times[-1]) for one in pairs)
    market = Market(first, last, HOUR)
    for one in pairs:
        market.add(one)
    return market


@pytest.mark.parametrize("hours", [1, -1, 2, 8, -5, 14])
def test_a_pair_that_moves_at_another_time_is_found(hours: int) -> None:
    """Times of closing taken for times of opening, and time zones, from the middle of the file on; the others are clean."""
    pairs = [pair(seed, 4_000) for seed in range(1, 6)]
    times = pairs[0].times.copy()
    times[2_000:] += hours * HOUR
    shifted = Candles(times[: len(times) if hours > 0 else 2_000 + hours], pairs[0].values)
    if hours < 0:
        shifted = Candles(
            np.delete(times, np.s_[2_000 + hours : 2_000]),
            np.delete(pairs[0].values, np.s_[2_000 + hours : 2_000], axis=0),
        )
    market = market_of([shifted, *pairs[1:]])
    finding = market.shifted(shifted)

    assert finding is not None
    assert finding.is_error
    assert {text for _, text in finding.places} == {
        f"{abs(hours) * 3_600} s {'behind' if hours > 0 else 'ahead of'} the other pairs"
    }
    assert finding.places[0][0] >= int(times[1_200])
    assert [market.shifted(one) for one in pairs[1:]] == [None] * 4


def test_what_does_not_move_with_the_market_is_not_accused() -> None:
    """A pair of its own, a constant one, a short one, a market of too few."""
    alone = pair(9, 4_000, beta=0.0)
    flat = Candles(alone.times, np.ones_like(alone.values))
    short = pair(8, 100)
    pairs = [pair(seed, 4_000) for seed in range(1, 5)]
    market = market_of([alone, flat, short, *pairs])
    assert [market.shifted(one) for one in (alone, flat, short, *pairs)] == [None] * 7
    few = [pair(1, 4_000), Candles(pair(2, 4_000).times + HOUR, pair(2, 4_000).values)]
    assert [market_of(few).shifted(one) for one in few] == [None, None]


@pytest.mark.parametrize("shift_minutes", [5, -10, 60, 120])
def test_finer_candles_of_the_pair_tell_a_shift(tmp_path: Path, shift_minutes: int) -> None:
    """Quarters of an hour against hours: exact, whatever the market does; a wrong volume alone is a note."""
    step = 300_000
    rng = np.random.default_rng(5)
    times = START + step * np.arange(12 * 400, dtype=np.int64)
    volumes = np.round(rng.lognormal(3.0, 1.0, len(times)), 4)
    prices = np.full(len(times), 100.0)
    write(tmp_path / "BTC_USDT-5m.parquet", Candles(times, np.stack([prices] * 4 + [volumes], axis=1)))
    hours = times.reshape(-1, 12)[:, 0] + shift_minutes * 60_000
    sums = volumes.reshape(-1, 12).sum(axis=1)
    made = Candles(hours, np.stack([prices[:400]] * 4 + [sums], axis=1))
    write(tmp_path / "BTC_USDT-1h.parquet", made)
    found = {one.file: one.findings for one in check(chosen(tmp_path, [], ""), now_ms=LATER)}
    shifted = [one for one in found["BTC_USDT-1h.parquet"] if one.kind == "shifted"]

    assert found["BTC_USDT-5m.parquet"] == ()
    assert (
        shifted[0].places[0][1]
        == f"{abs(shift_minutes) * 60} s {'behind' if shift_minutes > 0 else 'ahead of'} the 5m candles"
    )
    made.values[7, 4] *= 1.5
    write(tmp_path / "BTC_USDT-1h.parquet", Candles(hours - shift_minutes * 60_000, made.values))
    (note,) = next(one.findings for one in check(chosen(tmp_path, [], "1h"), now_ms=LATER))
    assert (note.kind, note.rows, note.is_error) == ("differs", 1, False)


def test_too_little_to_compare_says_nothing() -> None:
    """Nine candles are no proof."""
    times = np.arange(9, dtype=np.int64) * 10
    ones = np.ones(9)
    assert by_volume(times, ones, spans=[(0, 100)], opens_ns=times, volumes=2 * ones, step_ns=10) is None


def test_recorded_history_that_is_shifted_by_one_candle_is_found(shared_data: Path, tmp_path: Path) -> None:
    """Real hours of ten pairs: one file dated by closing times is named, with the whole hour, and no other one."""
    names = sorted((shared_data / "binance").glob("*-1h.parquet"))[:10]
    for number, path in enumerate(names):
        candles = read(path)
        write(tmp_path / path.name, Candles(candles.times + (HOUR if number == 4 else 0), candles.values))
    found = {one.file: one for one in check(chosen(tmp_path, [], ""), now_ms=LATER)}

    assert len(list_files(tmp_path)) == 10
    assert [name for name, one in found.items() if any(each.kind == "shifted" for each in one.findings)] == [
        names[4].name
    ]
    (finding,) = [one for one in found[names[4].name].findings if one.kind == "shifted"]
    assert {text for _, text in finding.places} == {"3600 s behind the other pairs"}
    assert finding.rows > 0.7 * len(read(names[4]))
