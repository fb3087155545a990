"""Opening a ledger: whose it is, the next epoch, and what is remembered."""

import socket
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select, update

from daemon.core.books import Books
from daemon.domain.errors import ConfigError
from daemon.domain.events import Restored
from daemon.domain.orders import OrderRecord, OrderState
from daemon.edge import ledger_rows as rows
from daemon.edge import tables
from daemon.edge.database import LedgerConfig
from daemon.edge.migrate import newer
from risk.throttle import MINUTE_NS

FILL_KEYS_MAX: Final = 20_000
"""Newest executions whose ids are handed to the engine, so that none is booked again after a restart."""


class Owned(NamedTuple):
    """What opening settled: the epoch, the current book, and the place that had the ledger before, "" if it was this one."""

    epoch: int
    book: int
    moved: str


def own(connection: Connection, config: LedgerConfig) -> Owned:
    """Raise the epoch and write down whose ledger it is and which machine and folder has it.

    On a server the rows are locked: of two that come at the same time, each gets an epoch of its own.

    Raises
    ------
    ConfigError
        A newer version wrote it, or it belongs to another account while positions are held.
    """
    query = select(tables.meta.c.key, tables.meta.c.value).order_by(tables.meta.c.key).with_for_update()
    known = dict(connection.execute(query).all())
    schema = int(known.get("schema", tables.SCHEMA_VERSION))
    if schema > tables.SCHEMA_VERSION:
        raise newer(config.place, f"schema {schema}", str(tables.SCHEMA_VERSION))
    book = int(known.get("book", "1"))
    identity = {"venue": config.venue, "account": config.account, "mode": config.mode, "quote": config.quote}
    changed = [key for key, value in identity.items() if known.get(key, value) != value]
    if changed:
        refuse_change(connection, config, known, changed=changed)
        book += 1
    epoch = int(known.get("epoch", "0")) + 1
    wanted = {
        **identity,
        "schema": str(tables.SCHEMA_VERSION),
        "epoch": str(epoch),
        "book": str(book),
        "instance": config.instance,
        "holder": f"{socket.gethostname()}:{config.folder.absolute()}",
    }
    for key, value in wanted.items():
        if key in known:
            connection.execute(update(tables.meta).where(tables.meta.c.key == key).values(value=value))
        else:
            connection.execute(insert(tables.meta).values(key=key, value=value))
    before = known.get("holder", wanted["holder"])
    return Owned(epoch, book, before if before != wanted["holder"] and config.place.path is None else "")


def refuse_change(connection: Connection, config: LedgerConfig, known: dict[str, str], *, changed: list[str]) -> None:
    """Refuse another quote, venue, account or mode while anything is held; else a new book may begin."""
    books = rows.read_books(connection, known["quote"], int(known.get("book", "1")))
    waiting = rows.unfinished(connection)
    words = ", ".join(f"{key} {known[key] or 'none'!r} to {getattr(config, key) or 'none'!r}" for key in changed)
    held = sorted(books.positions)
    if held or waiting:
        what = f"positions are held ({', '.join(held[:5])})" if held else f"{len(waiting)} orders are open"
        raise ConfigError(
            f"ledger {config.place}: {words} is refused while {what}; flatten under the old configuration first, "
            "or choose another state_dir or database"
        )


def restored(connection: Connection, books: Books, *, epoch: int, book: int, now_ns: int) -> Restored:
    """Return what a start remembers."""
    state_json = connection.scalar(select(tables.state.c.value).where(tables.state.c.key == "engine")) or ""
    return Restored(
        epoch=epoch,
        cash=books.cash,
        positions=tuple(sorted(books.positions.items())),
        entries=tuple(sorted(books.entries.items())),
        orders=tuple(as_unknown(record) for record in rows.unfinished(connection)),
        state_json=state_json,
        ts_ns=now_ns,
        fill_keys=rows.recent_fills(connection, book, limit=FILL_KEYS_MAX),
        sent_ns=last_sends(connection, now_ns),
    )


def last_sends(connection: Connection, now_ns: int) -> tuple[int, ...]:
    """Return when the intents of the last minute were approved, oldest first: a restart gives the throttle (P6) no new room."""
    approved = tables.intents.c.approved_ns
    query = select(approved).where(approved > now_ns - MINUTE_NS, approved <= now_ns).order_by(approved)
    return tuple(connection.scalars(query))


def as_unknown(record: OrderRecord) -> OrderRecord:
    """Return the order as recovery must see it: without evidence, or short of fills, its fate is unknown."""
    if record.state is OrderState.ACKED:
        return record
    return msgspec.structs.replace(record, state=OrderState.UNKNOWN)
