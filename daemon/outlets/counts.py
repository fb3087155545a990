"""Plain counters and histograms: what the hot path touches. Prometheus objects are made from them at scrape time."""

from bisect import bisect_left
from typing import Final

KEYS_MAX: Final = 2_000
"""Distinct label values of one counter; further ones are counted as "other": labels stay bounded."""

SECONDS: Final = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Bucket bounds of durations, in seconds."""

SLIPPAGE_BPS: Final = (-50.0, -20.0, -10.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Bucket bounds of slippage, in basis points; positive is worse than planned."""

Key = tuple[str, ...]


class Counts(dict[Key, float]):
    """A counter by label values; missing is 0, growth is bounded."""

    def add(self, *key: str, by: float = 1) -> None:
        """Count ``by`` more under these label values."""
        if key not in self and len(self) >= KEYS_MAX:
            key = ("other",) * len(key)
        self[key] = self.get(key, 0) + by


class Histogram:
    """Counts of observations by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation; an upper bound is inclusive."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, observations up to it), "+Inf" last: Prometheus' form."""
        pairs: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            pairs.append((bound, seen))
        return pairs
