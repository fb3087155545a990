"""What the planner is asked and what it answers, by value; and the ids that plans give to orders."""

import base64
import functools
import hashlib
from decimal import Decimal

import msgspec

from daemon.domain.market import Instrument
from daemon.domain.orders import Cause, Intent
from risk.limits import Limits

LEGS_MAX = 50
"""Most legs one exit is cut into at once; the rest follows with the next attempt."""


class Quote(msgspec.Struct, frozen=True):
    """Best bid and ask and last trade, float64 in quote currency, 0 when unknown."""

    bid: float
    ask: float
    last: float


class PlanRequest(msgspec.Struct, frozen=True):
    """Everything one rebalancing plan depends on.

    ``targets`` are fractions of ``equity`` by symbol; a held symbol without a target is held on to. ``sellable`` is the free
    part of ``positions``; ``reserved_buys`` the quote notional of live buys; ``cash_free`` own quote cash less all
    reservations. ``blocked`` maps symbols that must not be touched to the reason; ``frozen`` ones may not grow (all of
    them while the state is REDUCING);
    ``closing`` ones (close-only, cooling down) have target 0 whatever ``targets`` says. ``benefits`` orders symbols (default:
    the size of the difference). ``band_weight`` widens the no-trade band (fraction of equity). ``first_leg`` is the
    first leg number not yet used under this decision.
    """

    decision: str
    instance: str
    account: str
    mode: str
    now_ns: int
    targets: dict[str, float]
    positions: dict[str, Decimal]
    sellable: dict[str, Decimal]
    equity: Decimal
    cash_free: Decimal
    quotes: dict[str, Quote]
    instruments: dict[str, Instrument]
    limits: Limits
    max_intents: int
    reserved_buys: dict[str, Decimal] = {}
    blocked: dict[str, str] = {}
    frozen: frozenset[str] = frozenset()
    closing: frozenset[str] = frozenset()
    benefits: dict[str, float] = {}
    band_weight: float = 0.0
    first_leg: int = 0


class ExitRequest(msgspec.Struct, frozen=True):
    """One symbol to be sold whatever the strategy thinks: ``qty`` base units, at most what is free; rung ``attempt``."""

    decision: str
    instance: str
    account: str
    mode: str
    now_ns: int
    symbol: str
    qty: Decimal
    equity: Decimal
    quote: Quote
    instrument: Instrument
    limits: Limits
    cause: Cause
    attempt: int = 0
    first_leg: int = 0
    legs_max: int = LEGS_MAX


class Deferred(msgspec.Struct, frozen=True):
    """A symbol whose difference is not (fully) worked now: why, and how much of equity is left to do (signed)."""

    symbol: str
    reason: str
    weight: float


class Plan(msgspec.Struct, frozen=True):
    """What is to be done now and what is left.

    ``errors`` holds, by symbol, how far lot, minimum notional and band keep the final weight from its target (>= 0,
    fraction of equity, slices and cash aside). ``dust`` are symbols held in amounts the venue would not take.
    """

    intents: tuple[Intent, ...] = ()
    deferred: tuple[Deferred, ...] = ()
    errors: dict[str, float] = {}
    dust: tuple[str, ...] = ()


def decision_id(kind: str, sequence: int, epoch: int) -> str:
    """Return the id of a decision: its kind, bar close or sequence number, and the ledger epoch it was taken in."""
    return f"{kind}-{sequence}-{epoch}"


def client_id(instance: str, account: str, mode: str, *, decision: str, leg: int) -> str:
    """Return the client order id of one leg: ``b``, 4 characters of instance, 21 of account, mode, decision and leg.

    SHA-256 in lower-case base32: 26 characters of [a-z2-7]. The same leg has the same id for ever, so a venue or a
    ledger that sees it twice can tell; 105 bits make an accidental repetition impossible in practice.
    """
    return client_prefix(instance) + _hash32("\x1f".join((account, mode, decision, str(leg))), 21)


@functools.lru_cache(maxsize=64)
def client_prefix(instance: str) -> str:
    """Return what all client order ids of an instance begin with: an unknown order that has it is a second writer's."""
    return "b" + _hash32(instance, 4)


def _hash32(text: str, length: int) -> str:
    enough = -(-length * 5 // 40) * 5  # bytes in whole groups of five: base32 of the rest would be thrown away
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:enough])[:length].decode().lower()
