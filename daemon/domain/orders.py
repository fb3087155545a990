"""Orders: intents, the gate's verdicts, the lifecycle, fills and balances. Decimal throughout."""

from decimal import Decimal
from enum import StrEnum

import msgspec


class Side(StrEnum):
    """Side of an order."""

    BUY = "buy"
    SELL = "sell"


class Tif(StrEnum):
    """Time in force."""

    IOC = "ioc"
    GTC = "gtc"


class Cause(StrEnum):
    """Why an intent exists."""

    REBALANCE = "rebalance"
    STOP_LOSS = "stop_loss"
    TRAILING_STOP = "trailing_stop"
    VOLATILITY_STOP = "volatility_stop"
    DRAWDOWN = "drawdown"
    FLATTEN = "flatten"
    CLOSE_ONLY = "close_only"


class OrderState(StrEnum):
    """Lifecycle of an order (DESIGN, "Order lifecycle").

    ``SENDING`` is durable before the first byte. ``ACKED`` covers open and partially filled. ``UNKNOWN`` and
    ``RESOLVING`` keep exposure and cash reserved until there is evidence. The last six are terminal.
    """

    PLANNED = "planned"
    SENDING = "sending"
    ACKED = "acked"
    UNKNOWN = "unknown"
    RESOLVING = "resolving"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    NEVER_PLACED = "never_placed"
    DENIED = "denied"  # never sent: the ledger could not commit, the intent got too old, or a kill came first


TERMINAL = frozenset(
    {
        OrderState.FILLED,
        OrderState.CANCELED,
        OrderState.EXPIRED,
        OrderState.REJECTED,
        OrderState.NEVER_PLACED,
        OrderState.DENIED,
    }
)


class Intent(msgspec.Struct, frozen=True, tag=True):
    """An order that wants to exist: fixed client id, size and limit.

    ``decision`` and ``leg`` identify it for ever (the ledger enforces uniqueness); ``reference`` is the price it was
    planned against; ``exit`` marks an order that reduces exposure and passes the gate under the exit profile;
    it must leave before ``expires_ns`` or never.
    """

    client_id: str
    decision: str
    leg: int
    symbol: str
    side: Side
    qty: Decimal
    limit: Decimal
    tif: Tif
    cause: Cause
    exit: bool
    reference: Decimal
    ts_ns: int
    expires_ns: int

    @property
    def notional(self) -> Decimal:
        """Return qty * limit in quote currency: what a buy reserves before fees."""
        return self.qty * self.limit


class Check(StrEnum):
    """Names of the controls that refuse (FAULTS section 2): the gate's, and what stops an approved order from leaving."""

    P1_MAX_NOTIONAL = "p1_max_notional"
    P2_MAX_QTY = "p2_max_qty"
    P3_COLLAR = "p3_collar"
    P4_EXPOSURE = "p4_exposure"
    P5_LOSS = "p5_loss"
    P6_THROTTLE = "p6_throttle"
    P7_REPEATED = "p7_repeated"
    P8_DUPLICATE = "p8_duplicate"
    P9_SELF_TRADE = "p9_self_trade"
    P10_STALE = "p10_stale"
    P11_MODEL = "p11_model"
    P12_FILTER = "p12_filter"
    P14_FUNDS = "p14_funds"
    P15_NOT_TRADABLE = "p15_not_tradable"
    P16_TOO_OLD = "p16_too_old"
    STATE = "state"
    UNKNOWN_INPUT = "unknown_input"
    A1_KILL = "a1_kill"
    A5_RATE_BUDGET = "a5_rate_budget"
    NOT_SENT = "not_sent"


class Approved(msgspec.Struct, frozen=True, tag=True):
    """An intent the gate let through. Constructed in ``risk/gate.py`` alone; venue ports take nothing else."""

    intent: Intent
    ts_ns: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """An intent the gate stopped: which check, and one line why."""

    intent: Intent
    check: Check
    detail: str
    ts_ns: int


class OrderUpdate(msgspec.Struct, frozen=True, tag=True):
    """News about one of our orders, from the send, the user stream, a query or the paper venue.

    ``state`` is the venue's word mapped to ours; ``filled`` the cumulative quantity the venue states (never booked
    from here: only fills book); ``code`` the venue's error code or reason; ``source`` one of send, stream, query, paper, ledger.
    """

    client_id: str
    symbol: str
    state: OrderState
    venue_id: str
    filled: Decimal
    code: str
    source: str
    ts_ns: int


class Fill(msgspec.Struct, frozen=True, tag=True):
    """One execution. ``trade_id`` is unique per symbol; ``fee`` >= 0 is paid in ``fee_asset``."""

    symbol: str
    trade_id: str
    client_id: str
    venue_id: str
    side: Side
    qty: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    maker: bool
    ts_event_ns: int
    source: str


class Balance(msgspec.Struct, frozen=True, tag=True):
    """Free and locked amount of one asset at the venue."""

    asset: str
    free: Decimal
    locked: Decimal


class OrderRecord(msgspec.Struct, frozen=True, tag=True):
    """An order as the ledger knows it: what recovery starts from."""

    intent: Intent
    state: OrderState
    venue_id: str
    filled: Decimal
    updated_ns: int
