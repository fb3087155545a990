"""Read the ledger from any process, beside the daemon that writes it: for API, CLI, reconciliation and export."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Self

import msgspec
from sqlalchemy import Connection, RowMapping, Table, select
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from daemon.core.books import Books
from daemon.domain.errors import ConfigError, Unreachable
from daemon.domain.events import Flow
from daemon.domain.orders import TERMINAL, Fill, OrderRecord
from daemon.edge import ledger_rows as rows
from daemon.edge import tables
from daemon.edge.database import Place, brief, engine_of


class LedgerSummary(msgspec.Struct, frozen=True):
    """Counts and balances of a ledger at one moment. ``unresolved`` orders have no terminal state yet."""

    meta: dict[str, str]
    decisions: int
    orders: int
    refusals: int
    fills: int
    flows: int
    unresolved: int
    cash: Decimal
    positions: dict[str, Decimal]
    balances: dict[str, Decimal]
    fees: dict[str, Decimal]


class DecisionRow(msgspec.Struct, frozen=True):
    """A decision as it was written before its first order left; ``record`` is its JSON."""

    id: str
    epoch: int
    record: str
    ts_ns: int


class LedgerReader:
    """A read-only connection; synchronous, for one thread, also while the daemon writes.

    Parameters
    ----------
    where
        The ledger's place, or its SQLite file.

    Raises
    ------
    ConfigError
        There is no ledger, or it cannot be read.
    Unreachable
        Its server does not answer.
    """

    def __init__(self, where: Path | Place) -> None:
        self.place = place = where if isinstance(where, Place) else Place(path=where)
        if place.path is not None and not place.path.exists():
            raise missing(place)
        self._engine = engine_of(place, read_only=True, owner="ballast reader")
        try:
            self._connection: Connection = self._engine.connect()
            meta = self.meta()
            self._quote, self._book = meta.get("quote", ""), int(meta.get("book", "1"))
        except SQLAlchemyError as error:
            self._engine.dispose()
            if place.path is not None:
                remedy = "run as the user who owns state_dir"
                raise ConfigError(f"ledger {place} cannot be read ({brief(error)}); {remedy}") from error
            if isinstance(error, ProgrammingError):  # the server is there, the tables are not
                raise missing(place) from error
            kind = Unreachable if isinstance(error, OperationalError) else ConfigError
            raise kind(f"ledger {place} cannot be read ({brief(error)}); check ledger.url and the server") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._engine.dispose()

    def meta(self) -> dict[str, str]:
        """Return schema, epoch, account hash, mode, quote and venue."""
        with self._connection.begin():
            query = select(tables.meta.c.key, tables.meta.c.value)
            return dict(self._connection.execute(query).all())

    def books(self) -> Books:
        """Return all balances, cash, positions and average entries."""
        with self._connection.begin():
            return rows.read_books(self._connection, self._quote, self._book)

    def balances(self) -> dict[str, Decimal]:
        """Return the total amount of each asset on the account: opening balances, flows and fills."""
        return dict(sorted(self.books().total.items()))

    def orders(self, limit: int) -> list[OrderRecord]:
        """Return the newest orders, newest first."""
        column = tables.intents.c
        query = select(tables.intents).order_by(column.ts_ns.desc(), column.decision, column.leg).limit(limit)
        with self._connection.begin():
            return rows.orders_by(self._connection, query)

    def open_orders(self) -> list[OrderRecord]:
        """Return the orders without a terminal state, oldest first."""
        column = tables.intents.c
        query = select(tables.intents).where(column.state.not_in([state.value for state in TERMINAL]))
        with self._connection.begin():
            return rows.orders_by(self._connection, query.order_by(column.ts_ns, column.leg))

    def fills(self, limit: int) -> list[Fill]:
        """Return the newest executions in booking order, newest first; ``limit`` < 0 returns all."""
        query = select(tables.fills).order_by(tables.fills.c.id.desc())
        with self._connection.begin():
            found = self._connection.execute(query if limit < 0 else query.limit(limit))
            return [rows.to_fill(row) for row in found]

    def flows(self) -> list[Flow]:
        """Return deposits, withdrawals and opening balances in booking order."""
        with self._connection.begin():
            found = self._connection.execute(select(tables.flows).order_by(tables.flows.c.id))
            return [rows.to_flow(row) for row in found]

    def decision(self, decision: str) -> str:
        """Return the record of a decision as JSON, "" when there is none."""
        with self._connection.begin():
            query = select(tables.decisions.c.record).where(tables.decisions.c.id == decision)
            return self._connection.scalar(query) or ""

    def decision_row(self, decision: str = "") -> DecisionRow | None:
        """Return a decision, the newest one for "", None when there is none."""
        column = tables.decisions.c
        query = select(tables.decisions).order_by(column.ts_ns.desc(), column.id.desc()).limit(1)
        with self._connection.begin():
            row = self._connection.execute(query.where(column.id == decision) if decision else query).one_or_none()
        return None if row is None else DecisionRow(id=row.id, epoch=row.epoch, record=row.record, ts_ns=row.ts_ns)

    def decision_of(self, order: str) -> tuple[str, str]:
        """Return (decision, client id) of an order by its client id or the venue's; ("", "") when no order has it.

        The venue counts its ids per symbol, so several orders may share one: the newest is meant. A client id that the
        gate refused has a decision too.
        """
        column, refused = tables.intents.c, tables.refusals.c
        known = select(column.decision, column.client_id)
        by_client = known.where(column.client_id == order)
        by_venue = known.where(column.venue_id == order).order_by(column.ts_ns.desc()).limit(1)
        denied = select(refused.decision, refused.client_id).where(refused.client_id == order).limit(1)
        with self._connection.begin():
            for query in (by_client, by_venue, denied):
                found = self._connection.execute(query).one_or_none() if order else None
                if found is not None:
                    return found.decision, found.client_id
        return "", ""

    def rows_of(self, table: Table, name: str, values: Sequence[str], *order: str) -> list[RowMapping]:
        """Return the rows of a table whose column ``name`` holds one of the values, in the order of columns."""
        found: list[RowMapping] = []
        with self._connection.begin():
            for part in rows.chunks(values):
                query = select(table).where(table.c[name].in_(part)).order_by(*(table.c[one] for one in order))
                found.extend(self._connection.execute(query).mappings())
        return found

    def summary(self) -> LedgerSummary:
        """Return counts and balances, all of one moment."""
        connection = self._connection
        with connection.begin():
            meta = dict(connection.execute(select(tables.meta.c.key, tables.meta.c.value)).all())
            books = rows.read_books(connection, self._quote, self._book)
            fees: dict[str, Decimal] = {}
            for asset, amount in connection.execute(select(tables.fills.c.fee_asset, tables.fills.c.fee)):
                fees[asset] = fees.get(asset, Decimal(0)) + amount
            open_now = select(tables.intents.c.client_id).where(
                tables.intents.c.state.not_in([state.value for state in TERMINAL])
            )
            return LedgerSummary(
                meta=meta,
                decisions=rows.count(connection, tables.decisions),
                orders=rows.count(connection, tables.intents),
                refusals=rows.count(connection, tables.refusals),
                fills=rows.count(connection, tables.fills),
                flows=rows.count(connection, tables.flows),
                unresolved=len(connection.execute(open_now).all()),
                cash=books.cash,
                positions=dict(sorted(books.positions.items())),
                balances=dict(sorted(books.total.items())),
                fees=dict(sorted(fees.items())),
            )


def missing(place: Place) -> ConfigError:
    """Return the error for a ledger that is not there yet."""
    return ConfigError(f"ledger {place} does not exist; start `ballast run` with this configuration first")
