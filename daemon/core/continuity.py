"""Continuity of one symbol's trades: nothing twice, nothing missing, nothing absurd reaches a bar.

    live tick ──▶ accept ──▶ None                     in order: apply it (the hot path)
                        └──▶ Irregular(ready, …)      apply ``ready`` in order, report ``rejected``, fetch ``fetch``

Until ``start`` every tick is held; behind a gap ticks are held until ``repaired`` or ``give_up``; a tick whose price or
id jumps absurdly is suspected and held until the next ones agree with it or refute it. A refuted suspect leaves a gap
in the ids, so that REST is asked what that trade really was.
"""

from bisect import bisect_left

import msgspec

from daemon.domain.market import Malformed, RejectReason, Tick

SPIKE_FACTOR = 5.0
"""A price more than this factor above, or below one over it, the last accepted price is suspect."""
AGREE_TICKS = 3
"""So many consecutive ticks that agree with each other turn a suspicion into a fact."""
ID_JUMP_MAX = 5_000_000
"""An id further ahead than this is suspect: no outage we could repair by ids is that long."""
HOLD_MAX = 50_000
"""Ticks held behind a gap before it is given up; about 10 MB."""

Span = tuple[int, int]
"""First and last id, both included."""


class Irregular(msgspec.Struct, frozen=True):
    """What to do about a tick that was not simply the next one.

    ``ready`` are to be applied in this order; the first ``repaired`` of them came by REST. ``fetch`` is a span of ids to
    ask REST for; ``lost`` a span that will never come: mark the bar *before* applying ``ready``.
    """

    ready: tuple[Tick, ...] = ()
    repaired: int = 0
    rejected: tuple[Malformed, ...] = ()
    fetch: Span | None = None
    lost: Span | None = None


NOTHING = Irregular()


class Continuity:
    """Id continuity of one symbol in one id space.

    Attributes
    ----------
    next_id
        The id that comes next; -1 before the first tick.
    last_price
        Price of the last accepted tick, 0 before it.
    duplicates, gaps, spikes, lost
        Counters: ticks dropped as seen before, gaps found, prices refused, ids given up.
    """

    __slots__ = (
        "_held",
        "_hold_max",
        "_known",
        "_refuted",
        "_started",
        "_suspects",
        "duplicates",
        "gaps",
        "last_price",
        "lost",
        "next_id",
        "spikes",
        "symbol",
    )

    def __init__(self, symbol: str, *, hold_max: int = HOLD_MAX) -> None:
        self.symbol = symbol
        self.next_id = -1
        self.last_price = 0.0
        self.duplicates = 0
        self.gaps = 0
        self.spikes = 0
        self.lost = 0
        self._hold_max = hold_max
        self._known = -1
        self._held: list[Tick] = []
        self._suspects: list[Tick] = []
        self._refuted: dict[int, float] = {}
        self._started = False

    @property
    def gap(self) -> Span | None:
        """Return the first span of ids that is missing now, None when there is none."""
        if not self._started:
            return None
        if self._held:
            return (self.next_id, self._held[0].id - 1)
        return (self.next_id, self._known) if 0 <= self.next_id <= self._known else None

    @property
    def suspecting(self) -> bool:
        """Return whether the newest tick awaits others that agree with it."""
        return bool(self._suspects)

    @property
    def held(self) -> int:
        """Return how many ticks wait behind a gap, a suspicion or the start."""
        return len(self._held) + len(self._suspects)

    # ------------------------------------------------------------------ start

    def start(self, next_id: int, last_price: float = 0.0) -> Irregular:
        """Begin with ``next_id`` (-1: with whatever comes); ticks held so far are released, known ones dropped."""
        self._started = True
        self._known = -1
        self.next_id = next_id
        self.last_price = last_price
        waiting, self._held = self._held, []
        return self._all(sorted((tick for tick in waiting if tick.id >= next_id), key=_id_of))

    # ------------------------------------------------------------------ live

    def accept(self, tick: Tick) -> Irregular | None:
        """Take the next live tick; None means: it is the next one, apply it."""
        price = tick.price
        if tick.id == self.next_id and not self._held and not self._suspects:
            last = self.last_price
            if price < last * SPIKE_FACTOR and price * SPIKE_FACTOR > last:
                self.next_id = tick.id + 1
                self.last_price = price
                return None
        return self._irregular(tick)

    def _irregular(self, tick: Tick) -> Irregular | None:
        """Take a tick that is not plainly the next one."""
        if not self._started:
            return self._hold(tick)
        if self.next_id < 0:
            self.next_id = tick.id
            self.last_price = self.last_price or tick.price
            return self.accept(tick)
        if tick.id < self.next_id:
            return self._duplicate(tick)
        if self._suspects:
            return self._judge(tick)
        if self._suspicious(tick):
            self._suspects.append(tick)
            return Irregular(rejected=(self._spike(tick),))
        return self._in_space(tick)

    def _in_space(self, tick: Tick) -> Irregular | None:
        """Take a tick of plausible price and id: the next, or one behind a gap."""
        if tick.id > self.next_id:
            return self._behind(tick)
        self._advance(tick)
        if not self._held:
            return None
        return Irregular(ready=(tick, *self._release()))

    def _behind(self, tick: Tick) -> Irregular:
        """Hold a tick behind a gap and say what is missing just before it."""
        held = self._held
        place = bisect_left(held, tick.id, key=_id_of)
        if place < len(held) and held[place].id == tick.id:
            return self._duplicate(tick)
        if len(held) >= self._hold_max:
            given_up = self.give_up()
            rest = self._all([tick])
            ready = given_up.ready + rest.ready
            return Irregular(ready=ready, rejected=rest.rejected, fetch=rest.fetch, lost=given_up.lost)
        before = held[place - 1].id if place else self.next_id - 1
        held.insert(place, tick)
        if place < len(held) - 1 or tick.id == before + 1:
            return NOTHING  # inside or at the edge of what is already being fetched
        self.gaps += 1
        return Irregular(fetch=(before + 1, tick.id - 1))

    def _hold(self, tick: Tick) -> Irregular:
        """Hold a tick that came before ``start``; the oldest gives way (REST will fill what is missing)."""
        if len(self._held) >= self._hold_max:
            del self._held[0]
        self._held.append(tick)
        return NOTHING

    def _duplicate(self, tick: Tick) -> Irregular:
        """Drop a tick that was seen before."""
        self.duplicates += 1
        detail = f"id {tick.id}, expected {self.next_id}"
        return Irregular(rejected=(Malformed(RejectReason.DUPLICATE_ID, detail, self.symbol, tick.ts_recv_ns),))

    # ------------------------------------------------------------------ suspicion

    def _suspicious(self, tick: Tick) -> bool:
        """Return whether price or id jump further than a market can."""
        return not near(tick.price, self.last_price) or tick.id - self.next_id > ID_JUMP_MAX

    def _spike(self, tick: Tick) -> Malformed:
        """Return the quarantine record of a suspect."""
        if tick.id - self.next_id > ID_JUMP_MAX:
            detail = f"id {tick.id} is far ahead of {self.next_id}"
            return Malformed(RejectReason.OUT_OF_ORDER, detail, self.symbol, tick.ts_recv_ns)
        self.spikes += 1
        detail = f"price {tick.price!r} after {self.last_price!r}"
        return Malformed(RejectReason.PRICE_SPIKE, detail, self.symbol, tick.ts_recv_ns)

    def _judge(self, tick: Tick) -> Irregular | None:
        """Let a tick confirm or refute the suspects before it."""
        suspects = self._suspects
        newest = suspects[-1]
        if tick.id == newest.id + 1 and near(tick.price, newest.price):
            suspects.append(tick)
            if len(suspects) < AGREE_TICKS:
                return NOTHING
            return self._confirmed()
        if any(tick.id == one.id for one in suspects):
            return self._duplicate(tick)
        if self._suspicious(tick):
            self._suspects = [tick]
            self._refute(suspects)
            return Irregular(rejected=(self._spike(tick),))
        self._suspects = []
        self._refute(suspects)
        return self._in_space(tick)

    def _confirmed(self) -> Irregular:
        """Believe the suspects: their price is the market's."""
        suspects, self._suspects = self._suspects, []
        self.last_price = suspects[-1].price
        if suspects[0].id - self.next_id > ID_JUMP_MAX:
            lost = (self.next_id, suspects[0].id - 1)
            self.lost += 1
            self._held = []
            self.next_id = suspects[0].id
            return Irregular(ready=self._all(suspects).ready, lost=lost)
        return self._all(suspects)

    def _refute(self, suspects: list[Tick]) -> None:
        """Remember what was refused: should REST say the same, it was true."""
        self._refuted = {one.id: one.price for one in suspects}

    # ------------------------------------------------------------------ repair

    def repaired(self, ticks: tuple[Tick, ...]) -> Irregular:
        """Take what REST answered for a gap; a price that jumps is believed only when the stream had said the same.

        When ``gap`` still begins inside what was asked for, REST does not have it: apply this outcome, then ``give_up``.
        """
        ready: list[Tick] = []
        rejected: tuple[Malformed, ...] = ()
        for tick in ticks:
            if tick.id < self.next_id:
                continue  # came by itself meanwhile
            if tick.id > self.next_id:
                break
            if not near(tick.price, self.last_price) and self._refuted.get(tick.id) != tick.price:
                rejected = (self._spike(tick),)
                break
            self._advance(tick)
            ready.append(tick)
        self._held = [tick for tick in self._held if tick.id >= self.next_id]
        return Irregular(ready=(*ready, *self._release()), repaired=len(ready), rejected=rejected)

    def give_up(self) -> Irregular:
        """Accept that the ids of the first gap are lost, and go on behind it."""
        gap = self.gap
        if gap is None:
            return NOTHING
        self.lost += gap[1] - gap[0] + 1
        self.next_id = gap[1] + 1
        return Irregular(ready=self._release(), lost=gap)

    def confirm(self, last_id: int) -> Irregular | None:
        """Compare with the venue's newest id: None when nothing is missing, else what to fetch."""
        if not self._started or self.next_id < 0 or last_id < self.next_id or self._held:
            return None
        self.gaps += 1
        self._known = max(self._known, last_id)
        return Irregular(fetch=(self.next_id, last_id))

    # ------------------------------------------------------------------ helpers

    def _advance(self, tick: Tick) -> None:
        """Make ``tick`` the last accepted one."""
        self.next_id = tick.id + 1
        self.last_price = tick.price

    def _release(self) -> tuple[Tick, ...]:
        """Return the held ticks that are next now."""
        held = self._held
        count = 0
        for tick in held:
            if tick.id != self.next_id:
                break
            self._advance(tick)
            count += 1
        out = tuple(held[:count])
        del held[:count]
        return out

    def _all(self, ticks: list[Tick]) -> Irregular:
        """Take several ticks through the whole door and merge what it says."""
        ready: list[Tick] = []
        rejected: list[Malformed] = []
        fetch: Span | None = None
        for tick in ticks:
            outcome = self.accept(tick)
            if outcome is None:
                ready.append(tick)
                continue
            ready.extend(outcome.ready)
            rejected.extend(outcome.rejected)
            if outcome.fetch is not None:
                fetch = (fetch[0] if fetch else outcome.fetch[0], outcome.fetch[1])
        return Irregular(ready=tuple(ready), rejected=tuple(rejected), fetch=fetch)


def _id_of(tick: Tick) -> int:
    """Return the sort key of held ticks."""
    return tick.id


def near(price: float, last: float) -> bool:
    """Return whether a price is within the spike factor of ``last`` (everything is, while ``last`` is unknown)."""
    return last == 0.0 or (price < last * SPIKE_FACTOR and price * SPIKE_FACTOR > last)
