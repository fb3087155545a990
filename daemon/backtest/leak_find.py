"""What `ballast leak` compares and how it says what it found."""

from collections.abc import Sequence
from typing import Final

import msgspec

from daemon.backtest.leak_ask import Answer
from daemon.domain.signal import Forecast, NoDecision, Targets

FUTURE: Final = "future"
END: Final = "end"
ENGINE: Final = "engine"
PAST: Final = "past"
ORDER: Final = "order"
REPEAT: Final = "repeat"
MODEL: Final = "model"
FILES: Final = "files"
NEAR: Final = 1e-9
"""Numbers closer than this (absolute, and relative to 1) are the same but for rounding: other buffers, other alignment."""
_ENCODE: Final = msgspec.msgpack.encode


class Difference(msgspec.Struct, frozen=True):
    """Where two answers part: of which symbol ("": of all), what, and both values."""

    symbol: str
    what: str
    before: float | str
    after: float | str

    def __str__(self) -> str:
        """Return it as the end of a sentence."""
        whose = f"the {self.what} of {self.symbol}" if self.symbol else f"the {self.what}"
        return f"{whose} is {_number(self.after)} instead of {_number(self.before)}"


class Trace(msgspec.Struct, frozen=True):
    """Which future bars a decision hangs on: the earliest and latest, in bars after the decision and as closes (ns).

    ``pairs`` and ``fields`` are what alone is enough to change the decision, in the earliest of these bars; empty when
    one bar alone is not.
    """

    first_bars: int
    last_bars: int
    first_ns: int
    last_ns: int
    pairs: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something found: by which experiment, whether it is a leak or a warning, at which decision, and how often.

    ``count`` of ``of`` decisions were hit; ``close_ns`` (0: none in particular) is one of them, ``kind`` how its world
    was different.
    """

    experiment: str
    leak: bool
    message: str
    close_ns: int = 0
    kind: str = ""
    difference: Difference | None = None
    trace: Trace | None = None
    count: int = 1
    of: int = 1


class Needed(msgspec.Struct, frozen=True):
    """Decisions are the same from ``bars`` bars of history on; the daemon keeps ``configured``."""

    bars: int
    configured: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `ballast leak` found out. ``shown`` is how changed data folders were shown: "mount", "python" or ""."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    samples: int
    decisions: int
    needed: Needed | None
    shown: str

    @property
    def leaks(self) -> int:
        """Return how many findings are leaks."""
        return sum(one.leak for one in self.findings)

    @property
    def warnings(self) -> int:
        """Return how many are warnings."""
        return len(self.findings) - self.leaks


def same(one: Answer, other: Answer) -> bool:
    """Say whether two answers are the same to the last bit; of a refusal only the reason counts, not its words."""
    if isinstance(one, NoDecision) or isinstance(other, NoDecision):
        return isinstance(one, NoDecision) and isinstance(other, NoDecision) and one.reason == other.reason
    return _ENCODE(one) == _ENCODE(other)


def near(one: Answer, other: Answer) -> bool:
    """Say whether two answers are the same but for rounding."""
    if isinstance(one, NoDecision) or isinstance(other, NoDecision):
        return same(one, other)
    return difference(one, other, at_least=NEAR) is None


def difference(one: Answer, other: Answer, *, at_least: float = 0.0) -> Difference | None:
    """Return where two answers part most, weights first; None where nothing differs by more than ``at_least``."""
    if isinstance(one, NoDecision) or isinstance(other, NoDecision):
        return None if same(one, other) else Difference("", "answer", _words(one), _words(other))
    if one.symbols != other.symbols:
        return Difference("", "list of symbols", " ".join(one.symbols), " ".join(other.symbols))
    found = _largest(one.symbols, "weight", one.weights, other.weights, at_least)
    if found is not None:
        return found
    a, b = one.forecast, other.forecast
    if (a is None) != (b is None):
        return Difference("", "forecast", _there(a), _there(b))
    if a is not None and b is not None:
        for what in ("mean", "raw_mean", "scale", "skill", "interval_90"):
            found = _largest(a.symbols, f"forecast's {what}", getattr(a, what), getattr(b, what), at_least)
            if found is not None:
                return found
    if at_least > 0.0 or same(one, other):
        return None
    for what in ("status", "rung", "binding", "turnover"):
        if getattr(one, what) != getattr(other, what):
            return Difference("", what, str(getattr(one, what)), str(getattr(other, what)))
    return Difference("", "forecast's model", _model(a), _model(b))


def _largest(
    symbols: Sequence[str], what: str, one: Sequence[float], other: Sequence[float], at_least: float
) -> Difference | None:
    """Return where two rows of numbers differ most, by more than ``at_least`` absolutely and relative to 1."""
    gap, at = max(
        ((abs(a - b) / max(1.0, abs(a)), i) for i, (a, b) in enumerate(zip(one, other, strict=True))), default=(0.0, 0)
    )
    return Difference(symbols[at], what, one[at], other[at]) if gap > at_least else None


def _words(answer: Answer) -> str:
    return "weights" if isinstance(answer, Targets) else f"no decision ({answer.reason}: {answer.detail})"


def _there(forecast: Forecast | None) -> str:
    return "none" if forecast is None else "there"


def _model(forecast: Forecast | None) -> str:
    return "" if forecast is None else forecast.model


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
