"""Alarms ring once, end once, and not in between; they survive a restart and bad input."""

from math import inf, log, nan

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from risk.anomaly import Alarm, Anomalies, AnomalyLimits, Kept, Kind, Rule
from risk.portfolio import Floats

HOUR_NS = 3_600_000_000_000
PAIRS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
LIMITS = AnomalyLimits(warmup_bars=24)


def bars_of(close: Floats, reach: float | Floats = 0.01, volume: float | Floats = 10.0) -> Floats:
    """Return (n, 5) bars about these closes, ``reach`` between low and high."""
    half = np.broadcast_to(np.asarray(reach) / 2.0, close.shape)
    return np.stack(
        (close, close * np.exp(half), close * np.exp(-half), close, np.broadcast_to(volume, close.shape)), 1
    )


def quiet(watch: Anomalies, bars: int, start: int = 0) -> int:
    """Feed usual bars and return the next bar's number; nothing rings."""
    for at in range(start, start + bars):
        assert watch.on_bars(at * HOUR_NS, bars_of(np.full(3, 100.0)), np.full(3, 100.0)) == ()
    return start + bars


def kinds(alarms: tuple[Alarm, ...]) -> list[tuple[str, str]]:
    """Return codes and symbols."""
    return [(one.code, one.symbol) for one in alarms]


def test_a_spike_rings_and_ends_once() -> None:
    """Ranges of ten times the usual ring at the first bar; the alarm ends after six calm ones, not before."""
    watch = Anomalies(PAIRS, HOUR_NS, LIMITS)
    at = quiet(watch, 100)
    reach = np.array([0.01, 0.10, 0.01])
    first = watch.on_bars(at * HOUR_NS, bars_of(np.full(3, 100.0), reach))

    assert kinds(first) == [("volatility_spike", "ETH/USDT")]
    # Half-life of three bars; the usual ones have a variance of 1, this one 100.
    weight = 1.0 - 2.0 ** (-1.0 / 3.0)
    assert first[0].value == pytest.approx((1.0 + weight * 99.0) ** 0.5)
    assert first[0].detail == f"ETH/USDT: volatility is {first[0].value:.3g} times its usual (limit 3)"
    assert watch.active() == ((Kind.VOLATILITY, "ETH/USDT"),)
    assert watch.on_bars((at + 1) * HOUR_NS, bars_of(np.full(3, 100.0), reach)) == ()
    after: list[tuple[int, Alarm]] = []
    for later in range(at + 2, at + 60):
        after += [(later, one) for one in watch.on_bars(later * HOUR_NS, bars_of(np.full(3, 100.0)))]
    assert [one.code for _, one in after] == ["volatility_spike_over"]
    assert after[0][1].value <= after[0][1].limit == 1.5
    assert after[0][0] >= at + 2 + 6
    assert watch.active() == ()


def test_a_gap_between_bars_is_a_range() -> None:
    """A price that jumps between two bars moves as far as one that falls within a bar."""
    watch = Anomalies(PAIRS, HOUR_NS, LIMITS)
    at = quiet(watch, 60)
    assert kinds(watch.on_bars(at * HOUR_NS, bars_of(np.array([90.0, 100.0, 100.0])))) == [
        ("volatility_spike", "BTC/USDT")
    ]


def test_volume_that_dries_up() -> None:
    """A twentieth of the usual volume rings after some bars, for that symbol alone; usual volume ends it."""
    watch = Anomalies(PAIRS, HOUR_NS, LIMITS)
    at = quiet(watch, 24 * 10)
    thin = np.array([10.0, 10.0, 0.5])
    rung: list[tuple[int, Alarm]] = []
    for later in range(at, at + 40):
        volume = thin if later < at + 20 else np.full(3, 10.0)
        rung += [(later - at, one) for one in watch.on_bars(later * HOUR_NS, bars_of(np.full(3, 100.0), volume=volume))]

    assert [one.code for _, one in rung] == ["liquidity_crunch", "liquidity_crunch_over"]
    assert {one.symbol for _, one in rung} == {"SOL/USDT"}
    # 0.05 + 0.95·2^(-k/3) of the usual is left after k bars; it is below a quarter from the 7th on, twice in a row at the 8th.
    assert rung[0][0] == 7
    assert rung[0][1].value == pytest.approx(1.0 / (0.05 + 0.95 * 2.0 ** (-8.0 / 3.0)), rel=0.03)
    assert rung[1][0] >= 20 + 3


def test_no_volume_at_all() -> None:
    """Empty bars are bars: the ratio grows without bound and the line can still be read."""
    watch = Anomalies(PAIRS, HOUR_NS, AnomalyLimits(warmup_bars=24, fast_bars=0.01))
    at = quiet(watch, 48)
    rung = [
        one
        for later in range(at, at + 12)
        for one in watch.on_bars(later * HOUR_NS, bars_of(np.full(3, 100.0), 0.01, 0.0))
    ]

    assert {one.value for one in rung} == {inf}
    assert "inf times less volume" in rung[0].detail


def test_a_quiet_night_is_no_crunch() -> None:
    """Volume that is twenty times lower every night is usual at that hour."""
    watch = Anomalies(PAIRS, HOUR_NS, LIMITS)
    for at in range(24 * 20):
        volume = 0.5 if at % 24 < 8 else 10.0
        alarms = watch.on_bars(at * HOUR_NS, bars_of(np.full(3, 100.0), volume=volume))
        assert at < 24 * 4 or not alarms


def test_a_price_that_nobody_else_sees() -> None:
    """One symbol 3 % off rings after two bars; the median of the others is taken for the quote currency's share."""
    watch = Anomalies(PAIRS, HOUR_NS, LIMITS)
    at = quiet(watch, 3)
    close, reference = np.array([100.2, 100.2, 103.2]), np.full(3, 100.0)
    assert watch.on_bars(at * HOUR_NS, bars_of(close), reference) == ()
    (alarm,) = watch.on_bars((at + 1) * HOUR_NS, bars_of(close), reference)

    assert (alarm.code, alarm.symbol) == ("price_anomaly", "SOL/USDT")
    assert alarm.value == pytest.approx(log(103.2 / 100.2))
    assert "2.95% from the second reference" in alarm.detail
    unknown = np.full(3, nan)
    assert watch.on_bars((at + 2) * HOUR_NS, bars_of(close), unknown) == ()
    assert watch.on_bars((at + 3) * HOUR_NS, bars_of(close)) == ()  # no reference at all
    assert watch.active() == ((Kind.PRICE, "SOL/USDT"),)
    over = [watch.on_bars((at + 4 + k) * HOUR_NS, bars_of(reference), reference) for k in range(2)]
    assert [kinds(one) for one in over] == [[], [("price_anomaly_over", "SOL/USDT")]]


def test_a_lost_peg_is_one_alarm() -> None:
    """All prices 5 % off is the quote currency, told once and not three times; with two prices nobody can say."""
    watch = Anomalies(PAIRS, HOUR_NS, LIMITS)
    reference = np.full(3, 100.0)
    at = quiet(watch, 3)
    rung = [one for k in range(4) for one in watch.on_bars((at + k) * HOUR_NS, bars_of(1.05 * reference), reference)]
    assert kinds(tuple(rung)) == [("quote_anomaly", "")]
    assert "has the quote currency lost its peg" in rung[0].detail
    assert (Kind.QUOTE, "") in watch.active()
    two = np.array([100.0, 100.0, nan])
    rung = [one for k in range(2) for one in watch.on_bars((at + 4 + k) * HOUR_NS, bars_of(1.05 * reference), two)]
    assert kinds(tuple(rung)) == [("price_anomaly", "BTC/USDT"), ("price_anomaly", "ETH/USDT")]


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 79))
def test_alarms_alternate_and_survive_a_restart(seed: int, cut: int) -> None:
    """Whatever comes: up and down take turns, values lie beyond their limits, and a restart changes nothing."""
    rng = np.random.default_rng(seed)
    limits = AnomalyLimits(warmup_bars=5, liquidity=Rule(2.0, 1.5, 1, 1), volatility=Rule(1.5, 1.2, 1, 1))
    whole, part = Anomalies(PAIRS, HOUR_NS, limits), Anomalies(PAIRS, HOUR_NS, limits)
    close = np.full(3, 100.0)
    up: set[tuple[Kind, str]] = set()
    for at in range(80):
        if at == cut:
            kept = msgspec.msgpack.decode(msgspec.msgpack.encode(part.snapshot()), type=tuple[Kept, ...])
            part = Anomalies(PAIRS, HOUR_NS, limits)
            part.restore(kept)
        close = close * np.exp(rng.normal(0.0, 0.02, 3) * rng.choice([1.0, 5.0]))
        bars = bars_of(close, np.abs(rng.normal(0.0, 0.02, 3)), rng.exponential(10.0, 3))
        bars[rng.random(3) < 0.1] = rng.choice([nan, inf, 0.0, -1.0])
        reference = close * np.exp(rng.normal(0.0, 0.01, 3))
        alarms = whole.on_bars(at * HOUR_NS, bars, reference)
        assert part.on_bars(at * HOUR_NS, bars, reference) == alarms
        for one in alarms:
            key = (one.kind, one.symbol)
            assert (key in up) is not one.raised
            assert one.value >= one.limit if one.raised else one.value <= one.limit
            up ^= {key}
        assert set(whole.active()) == up


def test_a_restart_in_another_universe() -> None:
    """A symbol that stays keeps its alarm; others, and what another version kept, start anew."""
    watch = Anomalies(PAIRS, HOUR_NS, LIMITS)
    at = quiet(watch, 60)
    watch.on_bars(at * HOUR_NS, bars_of(np.full(3, 100.0), np.array([0.01, 0.2, 0.01])))
    other = Anomalies(("NEW/USDT", "ETH/USDT"), HOUR_NS, LIMITS)
    other.restore((*watch.snapshot(), Kept("NEW/USDT", (1.0,))))

    assert other.active() == ((Kind.VOLATILITY, "ETH/USDT"),)


def test_nothing_is_judged_before_it_is_known() -> None:
    """No alarm on volatility or volume within the warm-up."""
    watch = Anomalies(PAIRS, HOUR_NS, AnomalyLimits(warmup_bars=30))
    for at in range(30):
        assert watch.on_bars(at * HOUR_NS, bars_of(np.full(3, 100.0), 0.3 if at % 7 == 6 else 0.001, 10.0)) == ()


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        (AnomalyLimits(price=Rule(on=0.01, off=0.02)), "price = on 0.01, off 0.02"),
        (AnomalyLimits(volatility=Rule(on=2.0, off=1.0, confirm=0)), "volatility = on 2"),
        (AnomalyLimits(fast_bars=0.0), "fast_bars = 0: must be above 0"),
        (AnomalyLimits(fast_bars=9.0, slow_bars=9.0), "fast_bars = 9: must be below slow_bars = 9"),
        (AnomalyLimits(warmup_bars=0), "warmup_bars = 0"),
    ],
)
def test_impossible_limits(limits: AnomalyLimits, line: str) -> None:
    """One line that names the limit."""
    with pytest.raises(ValueError, match=line.replace("(", r"\(")):
        Anomalies(PAIRS, HOUR_NS, limits)
