"""Rows of the ledger to values of the vocabulary and back; queries that any connection may run."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Insert, Row, Select, Table, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from daemon.core.books import Books, exactly
from daemon.core.breaks import UNEXPLAINED
from daemon.domain.events import Booked, Flow, Persist, Recorded, Submit
from daemon.domain.orders import (
    TERMINAL,
    Approved,
    Cause,
    Fill,
    Intent,
    OrderRecord,
    OrderState,
    OrderUpdate,
    Refused,
    Side,
    Tif,
)
from daemon.edge import tables

ZERO: Final = Decimal(0)
VARIABLES_MAX: Final = 500
"""Bound values in one IN list; SQLite allows 999 in its oldest builds."""

Written = Booked | Recorded | Persist

Values = dict[str, Any]  # a row on its way into SQLAlchemy, which takes any type per column


def insert_once(connection: Connection, table: Table) -> Insert:
    """Return an INSERT that leaves an existing row as it is."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def intent_row(approved: Approved) -> Values:
    """Return the row of an intent that is about to leave: state SENDING."""
    intent = approved.intent
    return {
        "client_id": intent.client_id,
        "decision": intent.decision,
        "leg": intent.leg,
        "symbol": intent.symbol,
        "side": intent.side.value,
        "qty": intent.qty,
        "limit_price": intent.limit,
        "tif": intent.tif.value,
        "cause": intent.cause.value,
        "is_exit": intent.exit,
        "reference": intent.reference,
        "ts_ns": intent.ts_ns,
        "expires_ns": intent.expires_ns,
        "approved_ns": approved.ts_ns,
        "state": OrderState.SENDING.value,
        "venue_id": "",
        "filled": ZERO,
        "code": "",
        "updated_ns": approved.ts_ns,
    }


def refusal_row(submit: Submit, refused: Refused) -> Values:
    """Return the row of an intent the gate stopped."""
    intent = refused.intent
    return {
        "decision": submit.decision,
        "client_id": intent.client_id,
        "symbol": intent.symbol,
        "side": intent.side.value,
        "qty": intent.qty,
        "limit_price": intent.limit,
        "reason": refused.check.value,
        "detail": refused.detail,
        "ts_ns": refused.ts_ns,
    }


def fill_row(fill: Fill, book: int) -> Values:
    """Return the row of an execution."""
    return {
        "book": book,
        "symbol": fill.symbol,
        "trade_id": fill.trade_id,
        "client_id": fill.client_id,
        "venue_id": fill.venue_id,
        "side": fill.side.value,
        "qty": fill.qty,
        "price": fill.price,
        "fee": fill.fee,
        "fee_asset": fill.fee_asset,
        "maker": fill.maker,
        "ts_event_ns": fill.ts_event_ns,
        "source": fill.source,
    }


def flow_row(flow: Flow, book: int) -> Values:
    """Return the row of a deposit, withdrawal or opening balance."""
    return {
        "book": book,
        "asset": flow.asset,
        "amount": flow.amount,
        "ours": flow.ours,
        "detail": flow.detail,
        "ts_ns": flow.ts_ns,
    }


def event_row(update: OrderUpdate) -> Values:
    """Return the row of one piece of news about an order."""
    return {
        "client_id": update.client_id,
        "symbol": update.symbol,
        "state": update.state.value,
        "venue_id": update.venue_id,
        "filled": update.filled,
        "code": update.code,
        "source": update.source,
        "ts_ns": update.ts_ns,
    }


def to_fill(row: Row[Any]) -> Fill:
    """Read an execution."""
    return Fill(
        symbol=row.symbol,
        trade_id=row.trade_id,
        client_id=row.client_id,
        venue_id=row.venue_id,
        side=Side(row.side),
        qty=row.qty,
        price=row.price,
        fee=row.fee,
        fee_asset=row.fee_asset,
        maker=row.maker,
        ts_event_ns=row.ts_event_ns,
        source=row.source,
    )


def to_flow(row: Row[Any]) -> Flow:
    """Read a deposit, withdrawal or opening balance."""
    return Flow(asset=row.asset, amount=row.amount, ours=bool(row.ours), detail=row.detail, ts_ns=row.ts_ns)


def to_record(row: Row[Any]) -> OrderRecord:
    """Read an order; ``filled`` is what the venue has stated."""
    intent = Intent(
        client_id=row.client_id,
        decision=row.decision,
        leg=row.leg,
        symbol=row.symbol,
        side=Side(row.side),
        qty=row.qty,
        limit=row.limit_price,
        tif=Tif(row.tif),
        cause=Cause(row.cause),
        exit=row.is_exit,
        reference=row.reference,
        ts_ns=row.ts_ns,
        expires_ns=row.expires_ns,
    )
    return OrderRecord(
        intent=intent,
        state=OrderState(row.state),
        venue_id=row.venue_id,
        filled=row.filled,
        updated_ns=row.updated_ns,
    )


def read_books(connection: Connection, quote: str, book: int) -> Books:
    """Add up every flow and fill of one book in the order they were booked."""
    books = Books(quote)
    flows, fills = tables.flows, tables.fills
    for row in connection.execute(select(flows).where(flows.c.book == book).order_by(flows.c.id)):
        books.book_flow(to_flow(row))
    for row in connection.execute(select(fills).where(fills.c.book == book).order_by(fills.c.id)):
        books.book_fill(to_fill(row))
    return books


def booked(connection: Connection, client_ids: Sequence[str]) -> dict[str, Decimal]:
    """Return the quantity booked by fills for each of these orders that has any."""
    totals: dict[str, Decimal] = {}
    column = tables.fills.c
    with exactly():
        for part in chunks(client_ids):
            query = select(column.client_id, column.qty).where(column.client_id.in_(part))
            for client_id, qty in connection.execute(query):
                totals[client_id] = totals.get(client_id, ZERO) + qty
    return totals


def unfinished(connection: Connection) -> list[OrderRecord]:
    """Return the orders that may still change money, oldest first, ``filled`` being what is *booked*.

    These are the orders without a terminal state, and those whose fills do not yet add up to what the venue stated.
    """
    column = tables.intents.c
    open_now = select(tables.intents).where(column.state.not_in([state.value for state in TERMINAL]))
    stated = select(tables.intents).where(column.state.in_([state.value for state in TERMINAL]), column.filled != ZERO)
    records = [to_record(row) for row in connection.execute(open_now.order_by(column.ts_ns, column.leg))]
    done = [to_record(row) for row in connection.execute(stated.order_by(column.ts_ns, column.leg))]
    totals = booked(connection, [record.intent.client_id for record in [*records, *done]])
    short = [record for record in done if totals.get(record.intent.client_id, ZERO) < record.filled]
    return [counted(record, totals) for record in [*records, *short]]


def counted(record: OrderRecord, totals: Mapping[str, Decimal]) -> OrderRecord:
    """Return the record with what is booked in place of what the venue stated."""
    return msgspec.structs.replace(record, filled=totals.get(record.intent.client_id, ZERO))


def known_trades(connection: Connection, book: int, *, symbol: str, trade_ids: Sequence[str]) -> set[str]:
    """Return those of the trade ids that are booked already."""
    column = tables.fills.c
    found: set[str] = set()
    for part in chunks(trade_ids):
        query = select(column.trade_id).where(column.book == book, column.symbol == symbol, column.trade_id.in_(part))
        found.update(connection.scalars(query))
    return found


def known_flows(connection: Connection, book: int, details: Sequence[str]) -> set[str]:
    """Return those of the details under which a flow is booked already."""
    column = tables.flows.c
    found: set[str] = set()
    for part in chunks(details):
        found.update(connection.scalars(select(column.detail).where(column.book == book, column.detail.in_(part))))
    return found


def first_flow(connection: Connection, book: int) -> int:
    """Return when the books were opened (ns UTC), 0 when they were not."""
    column = tables.flows.c
    return int(connection.scalar(select(func.min(column.ts_ns)).where(column.book == book)) or 0)


def unexplained(connection: Connection, book: int, since_ns: int) -> dict[str, Decimal]:
    """Return by asset what was booked without an explanation since a time (ns UTC) and not taken back; no zeros."""
    column = tables.flows.c
    query = select(column.asset, column.amount).where(
        column.book == book, column.ts_ns >= since_ns, column.detail.startswith(UNEXPLAINED, autoescape=True)
    )
    sums: dict[str, Decimal] = {}
    with exactly():
        for asset, amount in connection.execute(query):
            sums[asset] = sums.get(asset, ZERO) + amount
    return {asset: amount for asset, amount in sums.items() if amount}


def last_trades(connection: Connection, book: int) -> dict[str, int]:
    """Return the largest numeric trade id booked for each symbol (trade ids of paper fills are not numbers)."""
    newest: dict[str, int] = {}
    column = tables.fills.c
    for symbol, trade_id in connection.execute(select(column.symbol, column.trade_id).where(column.book == book)):
        if trade_id.isdigit():
            newest[symbol] = max(newest.get(symbol, 0), int(trade_id))
    return newest


def opened(connection: Connection, book: int, *, quote: str) -> bool:
    """Say whether the opening balances of a book are whole: our own quote is there, which is written last, or a fill."""
    flow, fill = tables.flows.c, tables.fills.c
    own = select(flow.id).where(flow.book == book, flow.asset == quote, flow.ours).limit(1)
    return any(
        connection.scalar(query) is not None for query in (own, select(fill.id).where(fill.book == book).limit(1))
    )


def recent_fills(connection: Connection, book: int, *, limit: int) -> tuple[tuple[str, str], ...]:
    """Return (symbol, trade id) of the newest fills, oldest first."""
    column = tables.fills.c
    query = select(column.symbol, column.trade_id).where(column.book == book).order_by(column.id.desc()).limit(limit)
    return tuple((symbol, trade_id) for symbol, trade_id in reversed(connection.execute(query).all()))


def orders_by(connection: Connection, query: Select[Any]) -> list[OrderRecord]:
    """Run a query over the intents table; ``filled`` is what the venue stated."""
    return [to_record(row) for row in connection.execute(query)]


def orders_booked(connection: Connection, query: Select[Any]) -> list[OrderRecord]:
    """Run a query over the intents table; ``filled`` is what is booked."""
    found = orders_by(connection, query)
    totals = booked(connection, [record.intent.client_id for record in found])
    return [counted(record, totals) for record in found]


def find_orders(connection: Connection, client_ids: Sequence[str]) -> dict[str, OrderRecord]:
    """Return the orders known under these client ids; ``filled`` is what is booked."""
    query = select(tables.intents).where(tables.intents.c.client_id.in_(client_ids))
    return {record.intent.client_id: record for record in orders_booked(connection, query)}


def find_venue_ids(connection: Connection, symbol: str, venue_ids: Sequence[str]) -> dict[str, OrderRecord]:
    """Return the orders of a symbol known under these ids of the venue; ``filled`` is what is booked."""
    column = tables.intents.c
    query = select(tables.intents).where(column.symbol == symbol, column.venue_id.in_(venue_ids))
    return {record.venue_id: record for record in orders_booked(connection, query)}


def traded_symbols(connection: Connection) -> dict[str, int]:
    """Return every symbol with an intent, and the time of its first one (ns)."""
    column = tables.intents.c
    query = select(column.symbol, func.min(column.ts_ns)).group_by(column.symbol)
    return {symbol: int(first) for symbol, first in connection.execute(query)}


def count(connection: Connection, table: Table) -> int:
    """Return the number of rows of a table."""
    return connection.scalar(select(func.count()).select_from(table)) or 0


def chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    """Split a list so that each part fits into one statement."""
    return (items[start : start + VARIABLES_MAX] for start in range(0, len(items), VARIABLES_MAX))


def write_row(connection: Connection, row: Written, book: int) -> bool:
    """Write one row; false for an execution that was there already."""
    if isinstance(row, Persist):
        connection.execute(insert_once(connection, tables.state), {"key": "engine", "value": row.state_json})
        stored = update(tables.state).where(tables.state.c.key == "engine")
        connection.execute(stored.values(value=row.state_json))
    elif isinstance(row, Recorded):
        write_update(connection, row)
    elif row.fill is not None:
        once = insert_once(connection, tables.fills).inline().execution_options(preserve_rowcount=True)
        done = connection.execute(once, fill_row(row.fill, book))
        return done.rowcount > 0
    elif row.flow is not None:
        connection.execute(insert(tables.flows), flow_row(row.flow, book))
    return True


def write_update(connection: Connection, recorded: Recorded) -> None:
    """Write news about an order: the event as it came, and the order's row as it stands after it."""
    news = recorded.update
    column = tables.intents.c
    connection.execute(insert(tables.order_events), event_row(news))
    before = connection.execute(
        select(column.filled, column.venue_id).where(column.client_id == news.client_id)
    ).one_or_none()
    if before is None:
        return
    values = {
        "state": news.state.value,
        "code": news.code,
        "updated_ns": news.ts_ns,
        "filled": max(before.filled or ZERO, news.filled),  # what was stated once is never taken back
        "venue_id": news.venue_id or before.venue_id,
    }
    connection.execute(update(tables.intents).where(column.client_id == news.client_id).values(**values))
