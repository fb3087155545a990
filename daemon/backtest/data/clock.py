"""Clocks that differ: candles or trades whose times are all right by themselves, and wrong beside those of others.

Two witnesses: volumes, which must be equal where one file adds up to the other; and the market, whose pairs move together. A time
zone, daylight saving, or times of closing taken for times of opening show up as the one shift at which they agree.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daemon.backtest.data.check import DIFFERS, SHIFTED, SHOWN_MAX, Finding
from daemon.backtest.data.files import Candles

CANDLES_MIN: Final = 10
"""Candles with volume that a comparison of volumes needs at least."""
SAME_SHARE: Final = 0.9
"""With this share of equal volumes two clocks agree."""
GAIN_MIN: Final = 0.1
"""By so much a shift must raise that share to be the explanation."""
VOLUME_REL: Final = 1e-6
SHIFTS_S: Final = tuple(
    sign * seconds
    for seconds in (*range(1, 121), *range(180, 3_601, 60), *range(5_400, 50_401, 1_800))
    for sign in (1, -1)
)
"""Shifts that are tried: seconds up to two minutes, minutes up to an hour, half hours up to fourteen hours."""

WINDOW: Final = 720
"""Candles of one verdict by the market: a month of hours."""
OTHERS_MIN: Final = 3
"""Other pairs that make a market."""
PAIRED_MIN: Final = 200
RETURN_MAX: Final = 0.1
"""Larger log returns count as this much: one crash must not outweigh a month."""
CORRELATION_MIN: Final = 0.35
CORRELATION_GAIN: Final = 0.25
"""A shift is the explanation when returns correlate by so much there, and by so much more than as they are."""
HOURS_MAX: Final = 14
NS: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Agreement(NamedTuple):
    """What volumes say: the shift at which they agree, seconds (0: as they are), and the candles that differ as they are."""

    shift_s: int
    differing: Ints


def by_volume(
    times_ns: Ints,
    amounts: Floats,
    *,
    spans: Sequence[tuple[int, int]],
    opens_ns: Ints,
    volumes: Floats,
    step_ns: int,
    grain_ns: int = NS,
) -> Agreement | None:
    """Compare candles' volumes with what happened in them; None where too few can be compared.

    Parameters
    ----------
    times_ns, amounts
        (n,) ascending times, ns, and sizes of what adds up to candles.
    spans
        Stretches of time in which it is whole.
    opens_ns, volumes
        (m,) opening times, ns, and volumes of the candles.
    step_ns
        Their length.
    grain_ns
        Only shifts by a multiple of it are tried: what adds up is itself dated no finer.
    """
    sums = np.concatenate(([0.0], np.cumsum(amounts)))
    sold = volumes > 0.0

    def compare(shift_ns: int) -> tuple[Ints, NDArray[np.bool_]]:
        begin = opens_ns + shift_ns
        known = np.zeros(len(opens_ns), dtype=np.bool_)
        for first, last in spans:
            known |= (begin >= first) & (begin + step_ns <= last)
        chosen = np.flatnonzero(known & sold)
        low, high = (np.searchsorted(times_ns, begin[chosen] + extra) for extra in (0, step_ns))
        return chosen, np.isclose(sums[high] - sums[low], volumes[chosen], rtol=VOLUME_REL, atol=1e-9)

    chosen, same = compare(0)
    if len(chosen) < CANDLES_MIN:
        return None
    shift, best = 0, float(same.mean()) + GAIN_MIN
    if same.mean() < SAME_SHARE:
        for tried in (one for one in SHIFTS_S if one * NS % grain_ns == 0):
            moved, equal = compare(tried * NS)
            if len(moved) >= CANDLES_MIN and float(equal.mean()) > best:
                shift, best = tried, float(equal.mean())
    return Agreement(shift, chosen[~same])


def beside_finer(candles: Candles, step_ms: int, finer: Candles, finer_ms: int, name: str) -> list[Finding]:
    """Return what the pair's finer candles, called ``name``, say of a file's clock and volumes."""
    times, first = np.unique(finer.times, return_index=True)
    amounts = np.nan_to_num(finer.values[first, 4])
    breaks = np.flatnonzero(np.diff(times) != finer_ms)
    begins, ends = (
        times[np.concatenate(([0], breaks + 1))],
        times[np.concatenate((breaks, [len(times) - 1]))] + finer_ms,
    )
    opens, kept = np.unique(candles.times, return_index=True)
    verdict = by_volume(
        times * NS_PER_MS,
        amounts,
        spans=[(int(a) * NS_PER_MS, int(b) * NS_PER_MS) for a, b in zip(begins, ends, strict=True)],
        opens_ns=opens * NS_PER_MS,
        volumes=candles.values[kept, 4],
        step_ns=step_ms * NS_PER_MS,
        grain_ns=finer_ms * NS_PER_MS,
    )
    if verdict is None:
        return []
    if verdict.shift_s:
        # These candles show at t what the finer ones show at t + shift.
        word = f"{abs(verdict.shift_s)} s {'ahead of' if verdict.shift_s > 0 else 'behind'} the {name} candles"
        return [Finding(SHIFTED, len(opens), ((int(opens[0]), word),))]
    places = tuple((int(opens[at]), f"another volume than the {name} candles") for at in verdict.differing[:SHOWN_MAX])
    return [Finding(DIFFERS, len(verdict.differing), places)] if places else []


# ---------------------------------------------------------------------- the market


class Market:
    """Mean log return of all pairs of one timeframe, candle by candle; adding pairs one by one needs no more than one of them."""

    def __init__(self, first_ms: int, last_ms: int, step_ms: int) -> None:
        """Open an empty market from the first to the last candle's opening time, ms."""
        count = max(0, (last_ms - first_ms) // step_ms + 1)
        self._first_ms, self._step_ms = first_ms, step_ms
        self._sum = np.zeros(count)
        self._count = np.zeros(count)

    def add(self, candles: Candles) -> None:
        """Take a pair into it."""
        at, returns = self._returns(candles)
        self._sum[at] += returns
        self._count[at] += 1.0

    def shifted(self, candles: Candles) -> Finding | None:
        """Return the stretches in which a pair, one of those added, moves as the others do at another time; None: nowhere."""
        at, returns = self._returns(candles)
        if len(at) < PAIRED_MIN:
            return None
        own = np.full(len(self._sum), np.nan)
        own[at] = returns
        others = self._count - np.isfinite(own)
        with np.errstate(invalid="ignore", divide="ignore"):
            market = np.where(others >= OTHERS_MIN, (self._sum - np.nan_to_num(own)) / others, np.nan)
        places: list[tuple[int, str]] = []
        rows = 0
        for begin in range(int(at[0]), int(at[-1]) + 1, WINDOW):
            part = own[begin : begin + WINDOW]
            lag = self._lag(part, market, begin)
            if lag:
                seconds = abs(lag) * self._step_ms // 1_000
                word = f"{seconds} s {'behind' if lag > 0 else 'ahead of'} the other pairs"
                places.append((self._first_ms + begin * self._step_ms, word))
                rows += int(np.isfinite(part).sum())
        return Finding(SHIFTED, rows, tuple(places[:SHOWN_MAX])) if places else None

    def _lag(self, part: Floats, market: Floats, begin: int) -> int:
        """Return by how many candles a stretch lags behind the market; 0 when it moves with it, or nothing can be said."""
        now = _correlation(part, market, begin)
        if now is None or now >= 1.0 - CORRELATION_GAIN:
            return 0
        best, lag = max(CORRELATION_MIN, now + CORRELATION_GAIN), 0
        for tried in _lags(self._step_ms):
            found = _correlation(part, market, begin - tried)
            if found is not None and found > best:
                best, lag = found, tried
        return lag

    def _returns(self, candles: Candles) -> tuple[Ints, Floats]:
        """Return where on the grid a pair has returns from one candle to the next, and them; doubtful rows have none."""
        times, first = np.unique(candles.times, return_index=True)
        closes = candles.values[first, 3]
        sound = np.isfinite(closes) & (closes > 0.0) & ((times - self._first_ms) % self._step_ms == 0)
        times, logs = times[sound], np.log(closes[sound])
        next_to = np.diff(times) == self._step_ms
        at = (times[1:][next_to] - self._first_ms) // self._step_ms
        returns = np.clip(np.diff(logs)[next_to], -RETURN_MAX, RETURN_MAX)
        inside = (at >= 0) & (at < len(self._sum))
        return at[inside], returns[inside]


def _lags(step_ms: int) -> Iterable[int]:
    """Return shifts to try, candles: a few, and whole hours."""
    hour = 3_600_000
    hours = {sign * k * hour // step_ms for k in range(1, HOURS_MAX + 1) for sign in (1, -1)} if step_ms <= hour else ()
    return sorted({1, -1, 2, -2, 3, -3, *hours}, key=abs)


def _correlation(part: Floats, market: Floats, begin: int) -> float | None:
    """Return how a stretch correlates with the market from ``begin`` on; None where they have too little in common."""
    if begin < 0 or begin + len(part) > len(market):
        low, high = max(0, -begin), min(len(part), len(market) - begin)
        part, begin = part[low:high], max(begin, 0)
    beside = market[begin : begin + len(part)]
    both = np.isfinite(part) & np.isfinite(beside)
    if int(both.sum()) < PAIRED_MIN:
        return None
    one, other = part[both], beside[both]
    if float(one.std()) == 0.0 or float(other.std()) == 0.0:
        return None
    return float(np.corrcoef(one, other)[0, 1])
