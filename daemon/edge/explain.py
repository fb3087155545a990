"""Why an order exists: one decision put together again from the ledger, from what was forecast to what was paid."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from daemon.domain.events import Step
from daemon.domain.orders import Side
from daemon.domain.signal import Forecast
from daemon.edge import tables
from daemon.edge.ledger_read import LedgerReader

BPS: Final = 10_000
OWN: Final = {"record", "book", "id"}
"""Columns that say nothing to a reader."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One symbol at the decision: returns as fractions over the horizon, weights as fractions of equity.

    What the strategy did not say is None; ``deferred`` holds (reason, weight left to do); ``projection_error`` is how
    far lots and minimum sizes keep the final weight from its target.
    """

    symbol: str
    mean: float | None = None
    raw_mean: float | None = None
    scale: float | None = None
    skill: float | None = None
    interval_90: float | None = None
    weight: float | None = None
    target: float | None = None
    deferred: tuple[tuple[str, float], ...] = ()
    projection_error: float | None = None
    dust: bool = False


class Evidence(msgspec.Struct, frozen=True):
    """One piece of news about an order, as it was recorded."""

    state: str
    source: str
    code: str
    filled: Decimal
    ts_ns: int


class Paid(msgspec.Struct, frozen=True):
    """One execution; ``slippage_bps`` against the price it was planned at, positive is worse."""

    trade_id: str
    qty: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    slippage_bps: float | None
    source: str
    ts_event_ns: int


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """An order the gate approved, and what became of it."""

    client_id: str
    venue_id: str
    leg: int
    symbol: str
    side: str
    qty: Decimal
    limit: Decimal
    reference: Decimal
    tif: str
    cause: str
    exit: bool
    state: str
    code: str
    filled: Decimal
    ts_ns: int
    approved_ns: int
    evidence: tuple[Evidence, ...]
    fills: tuple[Paid, ...]
    model: str
    config_hash: str
    code_version: str


class Stopped(msgspec.Struct, frozen=True):
    """An order the gate refused: which check, and why."""

    client_id: str
    symbol: str
    side: str
    qty: Decimal
    limit: Decimal
    check: str
    detail: str
    ts_ns: int


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A decision. ``order`` is the client id that was asked about, "" when a decision was.

    ``cause`` is "rebalance" or what began the exit; ``rung`` is the attempt of an exit (0 the first), ``solver_rung``
    the step of the solver's ladder. ``outcome`` and ``detail`` say why nothing was ordered.
    """

    decision: str
    order: str = ""
    cause: str
    rung: int | None = None
    outcome: str
    detail: str = ""
    close_ns: int = 0
    ts_ns: int
    epoch: int | None = None
    model: str = ""
    horizon_bars: int | None = None
    status: str = ""
    solver_rung: str = ""
    binding: tuple[str, ...] = ()
    symbols: tuple[Seen, ...] = ()
    orders: tuple[Sent, ...] = ()
    refused: tuple[Stopped, ...] = ()


class _Record(msgspec.Struct):
    """What the engine wrote down with a decision; an exit has cause and rung only."""

    close_ns: int = 0
    symbols: tuple[str, ...] = ()
    targets: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    forecast: Forecast | None = None
    status: str = ""
    rung: str | int = ""
    binding: tuple[str, ...] = ()
    cause: str = ""
    deferred: tuple[tuple[str, str, float], ...] = ()
    projection_errors: dict[str, float] = {}
    dust: tuple[str, ...] = ()


def explain(reader: LedgerReader, name: str = "") -> Explanation | None:
    """Return why the named decision or order exists; the newest decision for "".

    Parameters
    ----------
    reader
        The ledger.
    name
        A decision's id, or an order's client id or id at the venue. None is returned when nothing has that name.
    """
    if not name.isprintable():  # no id is like that; a broken argument may not even be text for the database
        return None
    row, order = reader.decision_row(name), ""
    if row is None and name:
        decision, order = reader.decision_of(name)
        row = reader.decision_row(decision) if decision else None
    if row is None:
        return None
    record = _read(row.record)
    orders = _orders(reader, row.id)
    refused = tuple(
        Stopped(check=one["reason"], limit=one["limit_price"], **_of(one, Stopped))
        for one in reader.rows_of(tables.refusals, "decision", [row.id], "id")
    )
    return Explanation(
        decision=row.id,
        order=order,
        cause=record.cause or "rebalance",
        rung=record.rung if isinstance(record.rung, int) else None,
        outcome="submitted" if orders else "refused",
        detail="" if orders or not refused else refused[0].detail,
        close_ns=record.close_ns,
        ts_ns=row.ts_ns,
        epoch=row.epoch,
        model=record.forecast.model if record.forecast else "",
        horizon_bars=record.forecast.horizon_bars if record.forecast else None,
        status=record.status,
        solver_rung=record.rung if isinstance(record.rung, str) else "",
        binding=record.binding,
        symbols=_seen(record),
        orders=orders,
        refused=refused,
    )


def of_step(step: Step) -> Explanation:
    """Return the same record of a decision that ordered nothing, which the ledger therefore does not have."""
    forecast = step.forecast
    record = _Record(symbols=step.symbols, targets=step.targets, weights=step.weights, forecast=forecast)
    return Explanation(
        decision=step.decision,
        cause="rebalance",
        outcome=step.outcome,
        detail=step.detail,
        close_ns=step.close_ns,
        ts_ns=step.ts_ns,
        model=forecast.model if forecast else "",
        horizon_bars=forecast.horizon_bars if forecast else None,
        status=step.status,
        symbols=_seen(record),
    )


def _read(text: str) -> _Record:
    """Return the record; one that another version wrote loses what cannot be read, never the orders beside it."""
    try:
        return msgspec.json.decode(text, type=_Record)
    except (msgspec.DecodeError, UnicodeError):
        return _Record()


def _seen(record: _Record) -> tuple[Seen, ...]:
    """Return one row per symbol that anything is known about, in the strategy's order."""
    forecast = record.forecast
    names = dict.fromkeys(
        (*record.symbols, *(one[0] for one in record.deferred), *record.projection_errors, *record.dust)
    )
    at: dict[str, dict[str, float]] = {name: {} for name in names}
    columns: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
        "weight": (record.symbols, record.weights),
        "target": (record.symbols, record.targets),
    }
    if forecast is not None:
        for field in ("mean", "raw_mean", "scale", "skill", "interval_90"):
            columns[field] = (forecast.symbols, getattr(forecast, field))
    for field, (symbols, values) in columns.items():
        for symbol, value in zip(symbols, values, strict=False):
            at.setdefault(symbol, {})[field] = value
    return tuple(
        Seen(
            symbol=symbol,
            deferred=tuple((reason, left) for one, reason, left in record.deferred if one == symbol),
            projection_error=record.projection_errors.get(symbol),
            dust=symbol in record.dust,
            **values,
        )
        for symbol, values in at.items()
    )


def _orders(reader: LedgerReader, decision: str) -> tuple[Sent, ...]:
    intents = reader.rows_of(tables.intents, "decision", [decision], "leg")
    names = [str(one["client_id"]) for one in intents]
    news: dict[str, list[Evidence]] = {name: [] for name in names}
    for one in reader.rows_of(tables.order_events, "client_id", names, "id"):
        news[one["client_id"]].append(Evidence(**_of(one, Evidence)))
    paid: dict[str, list[Paid]] = {name: [] for name in names}
    planned = {one["client_id"]: (one["side"], one["reference"]) for one in intents}
    for one in reader.rows_of(tables.fills, "client_id", names, "id"):
        side, reference = planned[one["client_id"]]
        slippage = slippage_bps(side, price=one["price"], reference=reference)
        paid[one["client_id"]].append(Paid(slippage_bps=slippage, **_of(one, Paid)))
    return tuple(
        Sent(
            limit=one["limit_price"],
            exit=one["is_exit"],
            model=one["model_hash"],
            evidence=tuple(news[one["client_id"]]),
            fills=tuple(paid[one["client_id"]]),
            **_of(one, Sent),
        )
        for one in intents
    )


def slippage_bps(side: str, *, price: Decimal, reference: Decimal) -> float | None:
    """Return how much worse than the reference a price is, in basis points; None without a reference."""
    if reference <= 0:
        return None
    worse = price - reference if side == Side.BUY else reference - price
    return float(worse / reference * BPS)


def _of(row: Mapping[Any, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the columns that are fields of the struct under the same name."""
    return {name: row[name] for name in struct.__struct_fields__ if name in row}
