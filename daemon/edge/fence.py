"""The fence: an epoch that only rises, checked by the database inside the INSERT of every intent (F46, P18, I15)."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import BigInteger, Connection, Insert, Text, bindparam, cast, insert, select, update

from daemon.edge import ledger_rows as rows
from daemon.edge import tables

_EPOCH: Final = tables.meta.c.key == "epoch"
EPOCH_LOCKED: Final = select(tables.meta.c.value).where(_EPOCH).with_for_update(read=True)
"""The epoch; on a server nobody can raise it before the transaction ends."""
HELD: Final = (
    select(cast(tables.meta.c.value, BigInteger))
    .where(_EPOCH, tables.meta.c.value == bindparam("held", type_=Text))
    .with_for_update(read=True)
    .scalar_subquery()
)
"""The epoch if it is still the one that is held, else NULL, which the column it goes into does not take.

That is the fence (F46, I15): the INSERT of an instance that was paused and has been replaced fails by itself. The row
lock makes a server run it either wholly before the epoch is raised, so that the new owner sees what was inserted, or
after, so that it fails.
"""
INTENT_INSERT: Final = insert(tables.intents).values(epoch=HELD)
BATCH: Final = "batch"
"""Key of the mark that each batch of rows leaves in the state table on a server."""


def decision_insert(connection: Connection) -> Insert:
    """Return the fenced INSERT of a decision, which leaves one that is there as it is."""
    return rows.insert_once(connection, tables.decisions).values(epoch=HELD)


def found(connection: Connection, client_ids: Sequence[str]) -> list[str]:
    """Return those of the client ids that have an intent."""
    column = tables.intents.c.client_id
    return list(connection.scalars(select(column).where(column.in_(client_ids))))


def batch_mark(connection: Connection) -> str:
    """Return the mark of the batch that was written last, "" before the first."""
    return connection.scalar(select(tables.state.c.value).where(tables.state.c.key == BATCH)) or ""


def mark_batch(connection: Connection, mark: str) -> None:
    """Leave the mark of the batch that this transaction writes."""
    done = connection.execute(update(tables.state).where(tables.state.c.key == BATCH).values(value=mark))
    if not done.rowcount:
        connection.execute(insert(tables.state).values(key=BATCH, value=mark))
