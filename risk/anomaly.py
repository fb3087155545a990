"""Alarms on a market that is not as usual: volatility spikes, volume that dries up, prices that a second source does not see.

Fed with every closed bar, for all symbols at once; what comes out are changes: an alarm is raised once and ended once. Each
has two limits (hysteresis), so a figure that hovers about one of them does not ring at every bar. Nothing trades on an
alarm: it is for people, and for whoever wires it. Pure: time arrives with the bars, everything remembered can be kept.

What is measured:
- Volatility: root of the ratio of two exponentially weighted variances, of the newest bars and of the usual ones, each bar's
  variance from its true range, ln(high/low)² / (4·ln 2) (Parkinson, The Extreme Value Method for Estimating the Variance of
  the Rate of Return, Journal of Business 53, 1980), with the close before counted into the range (Wilder 1978).
- Liquidity: how many times less volume than usual at that hour of the day, smoothed over a few bars.
- Price: how far the price is from a second reference. What most symbols share is the quote currency's doing (or a constant
  basis between the two sources) and told as one alarm; a symbol's own is what is left of its deviation.
"""

from enum import StrEnum
from math import log
from typing import Final

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

HOUR_NS: Final = 3_600_000_000_000
HOURS: Final = 24
PARKINSON: Final = 4.0 * log(2.0)
VOLUME_CAP: Final = 4.0
"""A bar's volume counts into the usual one up to so many times it: a day of panic is not the new normal."""
HUGE: Final = 1e18
"""No price or volume is larger, no price smaller than its inverse."""
SHARED_MIN: Final = 3
"""With fewer symbols nobody can say whether it is the symbol or the quote currency that moved."""

Floats = NDArray[float64]
Flags = NDArray[np.bool_]


class Kind(StrEnum):
    """What is unusual; the value is the alert's code."""

    VOLATILITY = "volatility_spike"
    LIQUIDITY = "liquidity_crunch"
    PRICE = "price_anomaly"
    QUOTE = "quote_anomaly"


SAYS: Final = {
    Kind.VOLATILITY: "{subject}: volatility is {value:.3g} times its usual (limit {limit:g})",
    Kind.LIQUIDITY: "{subject}: {value:.3g} times less volume than usual at this hour (limit {limit:g})",
    Kind.PRICE: "{subject}: price is {value:.2%} from the second reference (limit {limit:.2%})",
    Kind.QUOTE: "all prices are {value:.2%} from the second reference (limit {limit:.2%}): has the quote currency lost its peg?",
}


class Alarm(msgspec.Struct, frozen=True):
    """An alarm that was raised, or ended (``raised`` false): ``value`` beyond or back within ``limit``.

    ``symbol`` is "" for `Kind.QUOTE`. Values: volatility and liquidity are ratios to the usual (liquidity may be infinite: no
    volume at all), prices fractions.
    """

    kind: Kind
    symbol: str
    raised: bool
    value: float
    limit: float
    ts_ns: int

    @property
    def code(self) -> str:
        """Return a stable name for the alert: that of the kind, with ``_over`` when it ended."""
        return self.kind.value if self.raised else f"{self.kind.value}_over"

    @property
    def detail(self) -> str:
        """Return one line for people."""
        return SAYS[self.kind].format(subject=self.symbol, value=self.value, limit=self.limit)


class Rule(msgspec.Struct, frozen=True):
    """When an alarm rings: after ``confirm`` bars in a row at or above ``on``; ends after ``calm`` bars at or below ``off``."""

    on: float
    off: float
    confirm: int = 1
    calm: int = 3


class AnomalyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as unusual. Half-lives in bars (``…_bars``) and days; the defaults are meant for bars of an hour.

    ``fast_bars`` smooths what is judged, ``slow_bars`` is the memory of usual volatility, ``volume_days`` that of usual volume.
    Nothing is judged before ``warmup_bars`` bars of the symbol.
    """

    volatility: Rule = Rule(on=3.0, off=1.5, confirm=1, calm=6)
    liquidity: Rule = Rule(on=4.0, off=2.0, confirm=2, calm=3)
    price: Rule = Rule(on=0.01, off=0.005, confirm=2, calm=2)
    fast_bars: float = 3.0
    slow_bars: float = 480.0
    volume_days: float = 14.0
    warmup_bars: int = 72

    def validate(self) -> list[str]:
        """Return one line per impossible value; empty when all are sound."""
        problems = [
            f"{name} = on {rule.on:g}, off {rule.off:g}, confirm {rule.confirm}, calm {rule.calm}: "
            "needs 0 < off <= on, confirm >= 1 and calm >= 1"
            for name, rule in (("volatility", self.volatility), ("liquidity", self.liquidity), ("price", self.price))
            if not (0.0 < rule.off <= rule.on < np.inf and rule.confirm >= 1 and rule.calm >= 1)
        ]
        problems += [
            f"{name} = {value:g}: must be above 0 and at most 1e6"
            for name, value in (
                ("fast_bars", self.fast_bars),
                ("slow_bars", self.slow_bars),
                ("volume_days", self.volume_days),
            )
            if not 0.0 < value <= 1e6
        ]
        if not problems and self.fast_bars >= self.slow_bars:
            problems.append(f"fast_bars = {self.fast_bars:g}: must be below slow_bars = {self.slow_bars:g}")
        if not 1 <= self.warmup_bars <= 1_000_000:
            problems.append(f"warmup_bars = {self.warmup_bars}: must lie between 1 and 1000000")
        return problems


class Kept(msgspec.Struct, frozen=True):
    """Everything remembered of one symbol ("" is the quote currency); NaN is possible, so keep it as msgpack, not JSON."""

    symbol: str
    values: tuple[float, ...]


# Rows of the memory: what is remembered of each symbol, one column a symbol. Of each alarm it holds how many bars in a row were
# beyond, how many within, and whether it is raised.
_CLOSE, _GAP, _BARS, _FAST, _SLOW, _FLOW, _MEAN = range(7)
_WATCHED: Final = (Kind.VOLATILITY, Kind.LIQUIDITY, Kind.PRICE)
_WATCH: Final = slice(7, 7 + 3 * len(_WATCHED))
_USUAL: Final = _WATCH.stop
_SEEN: Final = _USUAL + HOURS
_ROWS: Final = _SEEN + HOURS


class Anomalies:
    """Watch all symbols of a universe; call ``on_bars`` once per closed bar.

    Parameters
    ----------
    symbols
        Pairs; the order is that of every array.
    bar_ns
        Length of a bar, ns.
    limits
        What counts as unusual; must be valid.

    Raises
    ------
    ValueError
        For limits that are not valid; the first problem's line.
    """

    def __init__(self, symbols: tuple[str, ...], bar_ns: int, limits: AnomalyLimits | None = None) -> None:
        limits = AnomalyLimits() if limits is None else limits
        problems = limits.validate()
        if problems:
            raise ValueError(problems[0])
        self.symbols = symbols
        self._limits = limits
        self._fast = _weight(limits.fast_bars)
        self._slow = _weight(limits.slow_bars)
        self._usual = _weight(limits.volume_days * max(HOUR_NS / bar_ns, 1.0))
        self._mean = _weight(limits.volume_days * max(HOURS * HOUR_NS / bar_ns, 1.0))
        self._memory = np.zeros((_ROWS, len(symbols)))
        self._memory[_CLOSE] = np.nan
        self._memory[_FLOW] = 1.0
        self._quote = np.zeros(3)
        self._rules = (limits.volatility, limits.liquidity, limits.price)
        self._bounds = np.array([[rule.on, rule.off, rule.confirm, rule.calm] for rule in self._rules]).T[:, :, None]

    def on_bars(self, open_ns: int, bars: Floats, reference: Floats | None = None) -> tuple[Alarm, ...]:
        """Take the bars that opened at ``open_ns`` and return what changed, in the order of kinds and symbols.

        Parameters
        ----------
        open_ns
            Opening time, ns UTC: tells the hour of the day, and dates the alarms.
        bars
            (n_assets, 5) open, high, low, close, volume (base units); a row that is no bar (NaN, not above zero, high below low)
            changes nothing, and its symbol is judged by the next one.
        reference
            (n_assets,) prices of a second source at the bar's close, NaN where it has none; None: there is no such source.
        """
        high, low, close, volume = bars[:, 1], bars[:, 2], bars[:, 3], bars[:, 4]
        known = (
            (low > 1.0 / HUGE) & (close >= low) & (high >= close) & (high < HUGE) & (volume >= 0.0) & (volume < HUGE)
        )
        if not known.all():
            high, low, close, volume = (np.where(known, column, 1.0) for column in (high, low, close, volume))
        memory = self._memory
        early = ~known | (memory[_BARS] < self._limits.warmup_bars)
        values = np.full((len(_WATCHED), len(self.symbols)), np.nan)
        self._volatility(known, high, low, close, out=values[0])
        self._liquidity(known, open_ns, close * volume, out=values[1])
        values[:2, early] = np.nan
        memory[_BARS] += known
        shared = np.nan if reference is None else _apart(close, reference, known, out=values[2])
        watch = memory[_WATCH].reshape(3, len(_WATCHED), -1)
        alarms = [
            self._alarm(_WATCHED[kind], self.symbols[at], float(values[kind, at]), raised=up, ts_ns=open_ns)
            for kind, at, up in _changes(watch, values, self._bounds)
        ]
        if not np.isnan(shared):
            value, bounds = np.full((1, 1), shared), self._bounds[:, 2:]
            for _, _, up in _changes(self._quote.reshape(3, 1, 1), value, bounds):
                alarms.append(self._alarm(Kind.QUOTE, "", shared, raised=up, ts_ns=open_ns))
        return tuple(alarms)

    def active(self) -> tuple[tuple[Kind, str], ...]:
        """Return the alarms that are raised, by kind and symbol."""
        raised = self._memory[_WATCH][2 * len(_WATCHED) :]
        found = [(_WATCHED[kind], self.symbols[at]) for kind, at in np.argwhere(raised).tolist()]
        return (*found, (Kind.QUOTE, "")) if self._quote[2] else tuple(found)

    def snapshot(self) -> tuple[Kept, ...]:
        """Return everything remembered, as plain values."""
        columns = [Kept(symbol, tuple(self._memory[:, at].tolist())) for at, symbol in enumerate(self.symbols)]
        return (*columns, Kept("", tuple(self._quote.tolist())))

    def restore(self, state: tuple[Kept, ...]) -> None:
        """Take over what ``snapshot`` returned; a symbol that it does not hold, or that another version kept, starts anew."""
        for kept in state:
            if not kept.symbol and len(kept.values) == len(self._quote):
                self._quote[:] = kept.values
            elif kept.symbol in self.symbols and len(kept.values) == _ROWS:
                self._memory[:, self.symbols.index(kept.symbol)] = kept.values

    def _volatility(self, known: Flags, high: Floats, low: Floats, close: Floats, *, out: Floats) -> None:
        """Book the bars' ranges; set ``out`` (n,) to the volatility of the newest bars over the usual one before them."""
        memory = self._memory
        before, gap, once = memory[_CLOSE], memory[_GAP] + 1.0, 1.0 / (memory[_BARS] + 1.0)
        variance = np.square(np.log(np.fmax(high, before) / np.fmin(low, before))) / (PARKINSON * gap)
        usual = memory[_SLOW]
        seen = usual > 0.0
        fast = memory[_FAST] + np.maximum(self._fast, once) * (variance - memory[_FAST])
        # A single wild bar does not become the usual: it counts up to the limit of the alarm.
        capped = np.where(seen, np.minimum(variance, self._limits.volatility.on**2 * usual), variance)
        slow = usual + np.maximum(self._slow, once) * (capped - usual)
        out[:] = 1.0
        np.divide(fast, usual, out=out, where=seen)
        np.sqrt(out, out=out)
        for row, value in ((_FAST, fast), (_SLOW, slow), (_CLOSE, close)):
            np.copyto(memory[row], value, where=known)
        memory[_GAP] = np.where(known, 0.0, gap)

    def _liquidity(self, known: Flags, open_ns: int, volume: Floats, *, out: Floats) -> None:
        """Book the volumes (quote currency); set ``out`` (n,) to how many times less than usual at this hour they are."""
        memory, hour = self._memory, (open_ns // HOUR_NS) % HOURS
        usual, seen, mean = memory[_USUAL + hour], memory[_SEEN + hour], memory[_MEAN]
        expected = np.where(seen > 0.0, usual, mean)
        traded = expected > 0.0
        capped = np.where(traded, np.minimum(volume, VOLUME_CAP * expected), volume)
        share = np.divide(capped, expected, out=np.ones(len(volume)), where=traded)
        changes = (
            (_FLOW, memory[_FLOW] + self._fast * (share - memory[_FLOW])),
            (_MEAN, mean + np.maximum(self._mean, 1.0 / (memory[_BARS] + 1.0)) * (capped - mean)),
            (_USUAL + hour, usual + np.maximum(self._usual, 1.0 / (seen + 1.0)) * (capped - usual)),
            (_SEEN + hour, seen + 1.0),
        )
        for row, value in changes:
            np.copyto(memory[row], value, where=known)
        out[:] = np.inf
        np.divide(1.0, memory[_FLOW], out=out, where=memory[_FLOW] > 1.0 / HUGE)

    def _alarm(self, kind: Kind, symbol: str, value: float, *, raised: bool, ts_ns: int) -> Alarm:
        rule = self._limits.price if kind is Kind.QUOTE else self._rules[_WATCHED.index(kind)]
        return Alarm(kind, symbol, raised, value, rule.on if raised else rule.off, ts_ns)


def _weight(half_life: float) -> float:
    """Return the weight of the newest value in an exponential mean with this half-life, in steps."""
    return float(1.0 - 2.0 ** (-1.0 / half_life))


def _apart(close: Floats, reference: Floats, known: Flags, *, out: Floats) -> float:
    """Set ``out`` (n,) to each price's own deviation |ln(price / reference)|, and return the one that all share.

    The shared one is the median and taken out of each; NaN, and nothing taken out, for fewer than `SHARED_MIN` prices.
    """
    usable = known & (reference > 1.0 / HUGE) & (reference < HUGE)
    np.divide(close, reference, out=out, where=usable)
    np.log(out, out=out, where=usable)
    ordered = np.sort(out[usable])
    n = len(ordered)
    shared = float(ordered[(n - 1) // 2] + ordered[n // 2]) / 2.0 if n >= SHARED_MIN else np.nan
    if n >= SHARED_MIN:
        np.subtract(out, shared, out=out)
    np.abs(out, out=out)
    return abs(shared)


def _changes(watch: Floats, value: Floats, bounds: Floats) -> list[tuple[int, int, bool]]:
    """Step the hysteresis of (k, n) values and return (row, place, raised) of what changed; NaN leaves its place as it is.

    ``watch`` (3, k, n): bars in a row beyond, bars in a row within, raised (0 or 1). ``bounds`` (4, k, 1): those of `Rule`.
    """
    hot, cool, raised = watch
    on, off, confirm, calm = bounds
    beyond = value >= on
    known = ~np.isnan(value)
    if not beyond.any() and not raised.any():
        hot[known] = 0.0
        return []
    np.copyto(hot, np.where(beyond, hot + 1.0, 0.0), where=known)
    np.copyto(cool, np.where(value <= off, cool + 1.0, 0.0), where=known)
    up = raised > 0.0
    turned = known & np.where(up, cool >= calm, hot >= confirm)
    raised[turned] = 1.0 - raised[turned]
    hot[turned] = cool[turned] = 0.0
    return [(int(row), int(at), not bool(up[row, at])) for row, at in np.argwhere(turned)]
