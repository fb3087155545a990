"""How often one client may ask: token buckets by client and kind of request, so that no flood of one kind stops another."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

CLIENTS_MAX: Final = 1_000
"""Buckets kept; the one unused longest is forgotten first, and a forgotten client begins with a full bucket."""


class Rate(NamedTuple):
    """Requests per second in the long run, and how many may come at once."""

    per_s: float
    burst: int


RATES: Final[Mapping[str, Rate]] = {
    "read": Rate(50.0, 100),
    "control": Rate(5.0, 20),
    "kill": Rate(5.0, 20),
    "stranger": Rate(2.0, 20),
}
"""By scope of the request; strangers are those whose token is wrong or missing where one is needed: they are guessing.
A kill has a bucket of its own, so that nothing that reads, commands or guesses can use it up."""


class Rates:
    """Remembers what every client has left."""

    def __init__(self, rates: Mapping[str, Rate] = RATES) -> None:
        self._rates = rates
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many buckets are remembered."""
        return len(self._buckets)

    def wait_s(self, client: str, kind: str, now_s: float) -> int:
        """Take one request of a client; return 0 when it may pass, else in how many whole seconds it may come again.

        ``now_s`` is any clock that does not go back, seconds.
        """
        rate = self._rates[kind]
        left, since_s = self._buckets.pop((client, kind), (float(rate.burst), now_s))
        left = min(float(rate.burst), left + max(0.0, now_s - since_s) * rate.per_s)
        passes = left >= 1.0
        self._buckets[client, kind] = (left - 1.0 if passes else left, now_s)
        if len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        return 0 if passes else max(1, math.ceil((1.0 - left) / rate.per_s))
