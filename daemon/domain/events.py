"""Everything that enters the engine, and everything that leaves it.

``Engine.process(event)`` takes one ``Event`` and returns a tuple of ``Effect``s; nothing else changes state. Both
unions are plain frozen structs, so a tape of events is a file and two runs can be compared byte for byte.
"""

from decimal import Decimal
from enum import StrEnum

import msgspec

from daemon.domain.market import Bar, Instrument, Prices, Tick
from daemon.domain.orders import Approved, Balance, Fill, OrderRecord, OrderUpdate, Refused
from daemon.domain.signal import Forecast, NoDecision, Targets


class TradingState(StrEnum):
    """What may be sent (DESIGN A9)."""

    ACTIVE = "active"
    REDUCING = "reducing"
    HALTED = "halted"


class Action(StrEnum):
    """Operator commands."""

    PAUSE = "pause"
    RESUME = "resume"
    REDUCE_ONLY = "reduce_only"
    FLATTEN = "flatten"
    KILL = "kill"


class Timer(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The passing of time: our wall clock, and the venue's clock as we estimate it. Sent every 50 ms."""

    ts_ns: int
    exchange_ns: int


class Link(msgspec.Struct, frozen=True, tag=True):
    """A connection came up or went down; ``feed`` is market, user or rest."""

    feed: str
    up: bool
    detail: str
    ts_ns: int


class Listed(msgspec.Struct, frozen=True, tag=True):
    """The venue's trading rules for the universe, at start and when refreshed; its limit on new orders, 0: none published."""

    instruments: tuple[Instrument, ...]
    ts_ns: int
    orders_per_10s: int = 0


class Restored(msgspec.Struct, frozen=True, tag=True):
    """The ledger's memory at start: the first event of every session.

    ``cash`` and ``positions`` are what Ballast owns by its own books; ``orders`` those not terminal; ``state_json`` the
    engine's own small state (peaks, stops, cool-downs, latches) as it was last persisted, "" on a first start.
    ``fill_keys`` are (symbol, trade id) of recent fills: none is booked twice. ``sent_ns``: last minute's intents (P6), sorted.
    """

    epoch: int
    cash: Decimal
    positions: tuple[tuple[str, Decimal], ...]
    entries: tuple[tuple[str, float], ...]
    orders: tuple[OrderRecord, ...]
    state_json: str
    ts_ns: int
    fill_keys: tuple[tuple[str, str], ...] = ()
    sent_ns: tuple[int, ...] = ()


class History(msgspec.Struct, frozen=True, tag=True):
    """Closed bars of one symbol from the venue's candles, oldest first, contiguous, and the trades that complete the open bar.

    ``ticks`` are the trades from the open of the bar after the last of ``bars`` up to ``next_id - 1`` in the feed's id
    space; ``next_id`` is the id the live stream continues with (-1: whatever comes). When the open bar could not be
    completed ``partial`` is true.
    """

    symbol: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    next_id: int
    partial: bool
    ts_ns: int


class Repair(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``FetchTrades``: the missing trades in id order, or ``ok`` false with the reason."""

    symbol: str
    from_id: int
    to_id: int
    ticks: tuple[Tick, ...]
    ok: bool
    detail: str
    ts_ns: int


class Candle(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``FetchBar``: the venue's own closed candle for a bar we could not build ourselves (None: not to be had)."""

    symbol: str
    open_ns: int
    bar: Bar | None
    ts_ns: int


class Candles(msgspec.Struct, frozen=True, tag=True):
    """Closed candles of another interval than the bar's, oldest first: 1d for CVaR, 1h for the volatility stop."""

    symbol: str
    interval_ns: int
    bars: tuple[Bar, ...]
    ts_ns: int
    follows: int = 0  # daily ones: how many of the newest told before still count, in front of these


class Confirmed(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``ConfirmQuiet``: REST says the symbol's newest trade id, so silence is or is not real."""

    symbol: str
    last_id: int
    price: float
    ok: bool
    ts_ns: int


class Reconciled(msgspec.Struct, frozen=True, tag=True):
    """A complete comparison of ledger and venue. ``breaks`` are (asset, ledger, exchange) that differ."""

    ok: bool
    balances: tuple[Balance, ...]
    breaks: tuple[tuple[str, Decimal, Decimal], ...]
    external_orders: int
    ts_ns: int


class Flow(msgspec.Struct, frozen=True, tag=True):
    """Money or assets that came or went without a fill of ours (deposit, withdrawal, opening balance). Signed amount."""

    asset: str
    amount: Decimal
    ours: bool
    detail: str
    ts_ns: int


class Decided(msgspec.Struct, frozen=True, tag=True):
    """The worker's answer to ``Decide``, carrying the sequence of the view it saw. ``*_ns`` are durations."""

    seq: int
    result: Targets | NoDecision
    features_ns: int
    forecast_ns: int
    solve_ns: int
    ts_ns: int
    raw_skill: float = 0.0


class Proceed(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``Continue``: what came meanwhile has been heard."""

    ts_ns: int


class WorkerUp(msgspec.Struct, frozen=True, tag=True):
    """A worker is ready to be seeded; ``model`` is the hash it serves, "" when there is none."""

    model: str
    model_trained_ns: int
    ts_ns: int


class WorkerDown(msgspec.Struct, frozen=True, tag=True):
    """The worker died, hung or was replaced."""

    detail: str
    ts_ns: int


class Command(msgspec.Struct, frozen=True, tag=True):
    """An operator's command from API, CLI, MQTT or signal."""

    id: str
    action: Action
    source: str
    ts_ns: int


class Denied(msgspec.Struct, frozen=True, tag=True):
    """Approved intents that never left: no durable commit in time, too old at the socket, or killed."""

    client_ids: tuple[str, ...]
    detail: str
    ts_ns: int


class Fault(msgspec.Struct, frozen=True, tag=True):
    """A part of the daemon itself failed for good: trading halts until a person resumes it."""

    task: str
    detail: str
    ts_ns: int


class Killed(msgspec.Struct, frozen=True, tag=True):
    """The kill latch was seen, or lifted (``on`` false)."""

    on: bool
    detail: str
    ts_ns: int


Event = (
    Prices | Timer | Link | Listed | Restored | History | Repair | Candle | Candles | Confirmed | Reconciled | Flow | Decided
    | Proceed | WorkerUp | WorkerDown | Command | Denied | Killed | Fault | OrderUpdate | Fill
)  # fmt: skip


class Decide(msgspec.Struct, frozen=True, tag=True):
    """Ask the worker: bars closed since the last request, and the portfolio as it stands (see ``View``).

    ``bars`` are in closing order; ``daily`` is as in ``Seed`` when new, else (). After ``deadline_ns`` (wall) no answer counts.
    """

    seq: int
    ts_ns: int
    bar_ns: int
    close_ns: int
    symbols: tuple[str, ...]
    bars: tuple[Bar, ...]
    weights: tuple[float, ...]
    frozen: tuple[bool, ...]
    caps: tuple[float, ...]
    equity: float
    cash_weight: float
    turnover_left: float
    deadline_ns: int
    daily: tuple[bytes, ...] = ()


class Continue(msgspec.Struct, frozen=True, tag=True):
    """Ask for a ``Proceed`` once what has arrived is processed: work on many symbols is done in pieces."""


class Seed(msgspec.Struct, frozen=True, tag=True):
    """Fill a new worker's buffers: per symbol the raw bytes of a float64 array (n_bars, 6): close_ns, o, h, l, c, v.

    ``daily`` holds per symbol the float64 bytes of daily closes, oldest first (empty where unknown).
    """

    symbols: tuple[str, ...]
    rows: tuple[bytes, ...]
    daily: tuple[bytes, ...]
    bar_ns: int


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Commit these intents durably in one write, then send each once. ``refused`` are recorded in the same write."""

    decision: str
    approved: tuple[Approved, ...]
    refused: tuple[Refused, ...]
    record_json: str


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Cancel one order; idempotent."""

    client_id: str
    symbol: str
    detail: str


class CancelAll(msgspec.Struct, frozen=True, tag=True):
    """Cancel every open order of ours."""

    detail: str


class Resolve(msgspec.Struct, frozen=True, tag=True):
    """Find out what became of an order whose fate is unknown; never re-send it."""

    client_id: str
    symbol: str
    sent_ns: int


class FetchTrades(msgspec.Struct, frozen=True, tag=True):
    """Fetch the trades with ids ``from_id`` … ``to_id`` inclusive by REST, in the feed's id space."""

    symbol: str
    from_id: int
    to_id: int


class FetchBar(msgspec.Struct, frozen=True, tag=True):
    """Fetch the venue's own candle of a closed bar."""

    symbol: str
    open_ns: int
    close_ns: int


class Backfill(msgspec.Struct, frozen=True, tag=True):
    """Fetch ``bars`` closed candles and the trades that stitch them to the live stream: answered by ``History``.

    ``first_id``/``first_ts_ns`` are those of the first live tick held back, -1 when none came yet.
    """

    symbol: str
    bars: int
    first_id: int
    first_ts_ns: int


class ConfirmQuiet(msgspec.Struct, frozen=True, tag=True):
    """Ask REST whether the silence of a symbol is real."""

    symbol: str


class Booked(msgspec.Struct, frozen=True, tag=True):
    """Record a fill or flow that has just been booked, with the order's state after it."""

    fill: Fill | None
    flow: Flow | None


class Recorded(msgspec.Struct, frozen=True, tag=True):
    """Record an order's new state."""

    update: OrderUpdate


class Persist(msgspec.Struct, frozen=True, tag=True):
    """Persist the engine's own small state (peaks, stops, cool-downs, latches)."""

    state_json: str


class Alert(msgspec.Struct, frozen=True, tag=True):
    """Something a person should know; ``code`` is stable, ``detail`` one line."""

    code: str
    detail: str
    symbol: str
    ts_ns: int


class StateChanged(msgspec.Struct, frozen=True, tag=True):
    """The trading state changed; ``causes`` are the active ones, worst first."""

    state: TradingState
    causes: tuple[str, ...]
    ts_ns: int


class BarClosed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A bar closed (for outlets; buffers already hold it)."""

    bar: Bar


class Step(msgspec.Struct, frozen=True, tag=True):
    """What a decision did, for metrics, API and the record: everything by value, nothing to look up.

    ``close_ns`` is the bars' close, ``barrier_ns`` when the last of them had closed, ``ts_ns`` when the decision was made.
    """

    decision: str
    seq: int
    outcome: str
    close_ns: int
    barrier_ns: int
    ts_ns: int
    equity: float
    cash: float
    symbols: tuple[str, ...]
    targets: tuple[float, ...]
    weights: tuple[float, ...]
    forecast: Forecast | None
    status: str
    approved: int
    refused: int
    detail: str


Effect = (
    Decide | Continue | Seed | Submit | Cancel | CancelAll | Resolve | FetchTrades | FetchBar | Backfill | ConfirmQuiet
    | Booked | Recorded | Persist | Alert | StateChanged | BarClosed | Step
)  # fmt: skip
