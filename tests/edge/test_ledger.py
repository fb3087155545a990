import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, update
from sqlalchemy.exc import OperationalError

from daemon.core.books import Books, exactly
from daemon.domain.errors import AlreadyRunning, ConfigError
from daemon.domain.events import Booked, Flow, Persist, Recorded, Submit
from daemon.domain.orders import (
    Approved,
    Check,
    Fill,
    Intent,
    OrderState,
    OrderUpdate,
    Refused,
    Side,
    Tif,
)
from daemon.edge import ledger_rows as rows
from daemon.edge import tables
from daemon.edge.clock import Clock
from daemon.edge.database import engine_of, place_of
from daemon.edge.ledger import LedgerConfig, SqlLedger
from daemon.edge.ledger_read import LedgerReader
from daemon.edge.ledger_store import Superseded, Ticket
from tests.core import driver
from tests.edge.postgres import Server

D = Decimal
S_NS = 1_000_000_000


def make_intent(n: int, **changes: object) -> Intent:
    """Return the n-th intent of decision d<n>."""
    usual = {
        "client_id": f"b{n:025d}",
        "decision": f"d{n}",
        "qty": D("0.5"),
        "limit": D("100.10"),
        "ts_ns": n,
        "expires_ns": n + 2 * S_NS,
    }
    return driver.make_intent(**{**usual, **changes})


def make_submit(*intents: Intent, refused: tuple[Refused, ...] = ()) -> Submit:
    """Return a submission of these intents."""
    approved = tuple(Approved(intent=intent, ts_ns=intent.ts_ns) for intent in intents)
    return Submit(decision=intents[0].decision, approved=approved, refused=refused, record_json="{}")


def make_fill(trade: int, intent: Intent, **changes: object) -> Fill:
    """Return an execution of the whole intent at its limit."""
    fill = Fill(
        symbol=intent.symbol,
        trade_id=str(trade),
        client_id=intent.client_id,
        venue_id="7",
        side=intent.side,
        qty=intent.qty,
        price=intent.limit,
        fee=D("0.0005"),
        fee_asset="BTC",
        maker=False,
        ts_event_ns=trade,
        source="send",
    )
    return msgspec.structs.replace(fill, **changes)


def news(intent: Intent, state: OrderState, *, filled: str = "0", venue_id: str = "7", code: str = "") -> Recorded:
    """Return the effect that records an order's new state."""
    return Recorded(
        update=OrderUpdate(
            client_id=intent.client_id,
            symbol=intent.symbol,
            state=state,
            venue_id=venue_id,
            filled=D(filled),
            code=code,
            source="send",
            ts_ns=9,
        )
    )


def opening(amount: str, asset: str = "USDT", *, ours: bool = True) -> Booked:
    """Return an opening balance."""
    return Booked(fill=None, flow=Flow(asset=asset, amount=D(amount), ours=ours, detail="opening", ts_ns=1))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits may take longer than in the daemon: the machine may be crowded, and that is not what is tested."""
    monkeypatch.setattr("daemon.edge.ledger.COMMIT_MS_MAX", 10_000)


@pytest.fixture
def hasty(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits are awaited as long as the daemon awaits them."""
    monkeypatch.setattr("daemon.edge.ledger.COMMIT_MS_MAX", 250)


@pytest.fixture
def file_config(tmp_path: Path) -> LedgerConfig:
    """A paper ledger in a fresh folder, on SQLite."""
    return LedgerConfig(
        folder=tmp_path / "paper", instance="main", mode="paper", venue="binance", quote="USDT", lock_folder=tmp_path
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest, file_config: LedgerConfig) -> LedgerConfig:
    """A fresh paper ledger on each kind of database."""
    if request.param == "sqlite":
        return file_config
    server: Server = request.getfixturevalue("postgres")
    url = server.url(request.getfixturevalue("postgres_database"))
    return msgspec.structs.replace(file_config, at=place_of(url, folder=file_config.folder, mode="paper"))


@pytest.fixture
async def ledger(config: LedgerConfig) -> AsyncIterator[SqlLedger]:
    """An open ledger."""
    one = await reopen(config)
    yield one
    await one.close()


@pytest.fixture
async def file_ledger(file_config: LedgerConfig) -> AsyncIterator[SqlLedger]:
    """An open ledger on SQLite."""
    one = await reopen(file_config)
    yield one
    await one.close()


@contextlib.contextmanager
def locked(config: LedgerConfig) -> Iterator[None]:
    """Let another process hold the tables meanwhile."""
    if config.place.path is not None:
        with contextlib.closing(sqlite3.connect(config.place.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        return
    known: dict[str, Any] = dict(config.place.server)
    with psycopg.connect(**known) as server:
        server.execute(f"LOCK TABLE {config.place.schema}.intents, {config.place.schema}.flows".encode())
        yield
        server.rollback()


async def reopen(config: LedgerConfig) -> SqlLedger:
    """Return another open ledger on the same folder."""
    one = SqlLedger(config, clock=Clock())
    await one.open()
    return one


async def test_first_start_is_empty(config: LedgerConfig) -> None:
    """A new ledger remembers nothing and starts with epoch 1; the next start has epoch 2."""
    one = SqlLedger(config, clock=Clock())
    restored = await one.open()
    await one.close()
    two = SqlLedger(config, clock=Clock())
    again = await two.open()
    await two.close()

    assert (restored.epoch, again.epoch) == (1, 2)
    assert restored.cash == 0
    assert (restored.positions, restored.entries, restored.orders, restored.state_json) == ((), (), (), "")
    assert one.first_start


async def test_committed_intents_come_back_as_unknown(config: LedgerConfig) -> None:
    """What was about to be sent when the process died has an unknown fate."""
    one = await reopen(config)
    intent = make_intent(1)
    refused = Refused(intent=make_intent(2), check=Check.P3_COLLAR, detail="too far", ts_ns=5)
    assert await one.commit(make_submit(intent, refused=(refused,)))
    await one.close()
    two = SqlLedger(config, clock=Clock())
    restored = await two.open()
    await two.close()

    assert [(record.intent, record.state) for record in restored.orders] == [(intent, OrderState.UNKNOWN)]
    with LedgerReader(config.place) as reader:
        assert reader.summary().refusals == 1
        assert reader.decision("d1") == "{}"


async def test_acked_order_comes_back_acked_with_booked_quantity(config: LedgerConfig) -> None:
    """A restored order counts what is booked, not what the venue stated, so that a lost fill is noticed."""
    one = await reopen(config)
    intent = make_intent(1, tif=Tif.GTC)
    assert await one.commit(make_submit(intent))
    one.record(news(intent, OrderState.ACKED, filled="0.3"))
    one.record(Booked(fill=make_fill(1, intent, qty=D("0.1")), flow=None))
    await one.close()
    two = SqlLedger(config, clock=Clock())
    restored = await two.open()
    await two.close()

    (record,) = restored.orders
    assert (record.state, record.filled, record.venue_id) == (OrderState.ACKED, D("0.1"), "7")


async def test_terminal_order_with_a_missing_fill_is_restored(config: LedgerConfig) -> None:
    """FILLED without all its fills is not finished; with all of them it is."""
    one = await reopen(config)
    short, whole = make_intent(1), make_intent(2)
    for intent in (short, whole):
        assert await one.commit(make_submit(intent))
        one.record(news(intent, OrderState.FILLED, filled="0.5"))
    one.record(Booked(fill=make_fill(1, short, qty=D("0.2")), flow=None))
    one.record(Booked(fill=make_fill(2, whole), flow=None))
    await one.close()
    two = SqlLedger(config, clock=Clock())
    restored = await two.open()
    await two.close()

    assert [(r.intent.client_id, r.state, r.filled) for r in restored.orders] == [
        (short.client_id, OrderState.UNKNOWN, D("0.2"))
    ]


async def test_p6_a_restart_knows_what_left_within_the_minute(config: LedgerConfig) -> None:
    """The throttle counts on: intents of the last minute come back with their times, older ones do not."""
    now_ns = Clock().now_ns()
    times = [now_ns - 3_600 * S_NS, now_ns - 20 * S_NS, now_ns - 10 * S_NS]
    first = SqlLedger(config, clock=Clock())
    assert (await first.open()).sent_ns == ()
    for number, ts_ns in enumerate(times):
        assert await first.commit(make_submit(make_intent(number, ts_ns=ts_ns, expires_ns=ts_ns + S_NS)))
    await first.close()
    second = SqlLedger(config, clock=Clock())
    restored = await second.open()
    await second.close()

    assert restored.sent_ns == tuple(times[1:])


async def test_one_intent_per_decision_and_leg(ledger: SqlLedger) -> None:
    """The database refuses a second intent of the same decision and leg, and a used client id (P8)."""
    first = make_intent(1)
    assert await ledger.commit(make_submit(first))
    assert not await ledger.commit(make_submit(make_intent(2, decision="d1")))
    assert not await ledger.commit(make_submit(make_intent(3, client_id=first.client_id)))
    assert not await ledger.commit(make_submit(make_intent(4), make_intent(5, decision="d4")))

    assert [record.intent.client_id for record in await ledger.unfinished()] == [first.client_id]
    assert await ledger.commit(make_submit(make_intent(6), make_intent(7, decision="d6", leg=1)))


async def test_f46_an_epoch_that_was_raised_stops_the_old_owner(ledger: SqlLedger, config: LedgerConfig) -> None:
    """Whatever became of the locks: orders are denied and fills stay out once another instance has raised the epoch."""
    told: list[str] = []
    ledger.on_lost = lambda error: told.append(str(error))
    assert await ledger.commit(make_submit(make_intent(1)))
    engine = engine_of(config.place)
    with engine.connect() as other, other.begin():
        other.execute(update(tables.meta).where(tables.meta.c.key == "epoch").values(value="2"))
    engine.dispose()
    refused = Refused(intent=make_intent(9), check=Check.P3_COLLAR, detail="", ts_ns=5)
    submits = (make_submit(make_intent(2)), make_submit(make_intent(3), refused=(refused,)))
    durable = [await ledger.commit(one) for one in submits]
    ledger.record(Booked(fill=make_fill(1, make_intent(1)), flow=None))

    assert durable == [False, False]
    assert isinstance(ledger.lost, Superseded)
    assert not ledger.writable
    assert len(told) == 1
    with LedgerReader(config.place) as reader:
        found = reader.summary()
    assert (found.orders, found.decisions, found.refusals, found.fills) == (1, 1, 0, 0)


async def test_f46_rows_of_an_old_owner_stay_out(ledger: SqlLedger, config: LedgerConfig) -> None:
    """A fill that comes before any order is refused in the same way; it is the new owner's to book."""
    engine = engine_of(config.place)
    with engine.connect() as other, other.begin():
        other.execute(update(tables.meta).where(tables.meta.c.key == "epoch").values(value="2"))
    engine.dispose()
    ledger.record(opening("1000"))
    assert await ledger.flush(5)

    assert isinstance(ledger.lost, Superseded)
    assert ledger.backlog == 1
    with LedgerReader(config.place) as reader:
        assert reader.flows() == []


async def test_one_file_in_two_state_folders_has_one_owner(file_config: LedgerConfig, tmp_path: Path) -> None:
    """`sqlite:///file` is locked beside the file."""
    at = place_of(f"sqlite:///{tmp_path / 'shared.db'}", folder=tmp_path, mode="paper")
    one = await reopen(msgspec.structs.replace(file_config, at=at))
    with pytest.raises(AlreadyRunning, match=r"shared\.db"):
        await reopen(msgspec.structs.replace(file_config, at=at, folder=tmp_path / "b"))
    assert await one.commit(make_submit(make_intent(1)))
    await one.close()
    with LedgerReader(at) as reader:
        assert reader.summary().orders == 1


async def test_a_disk_that_hangs_is_noticed(
    file_ledger: SqlLedger, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that was given up and does not end: not writable while it lasts (F48)."""
    monkeypatch.setattr("daemon.edge.ledger.BEAT_S", 0.05)
    gate = threading.Event()
    blocker = file_ledger._submit(gate.wait)
    assert not await file_ledger.commit(make_submit(make_intent(1)))
    async with asyncio.timeout(10):
        while file_ledger.writable:
            await asyncio.sleep(0.01)
    gate.set()
    await blocker

    assert await file_ledger.commit(make_submit(make_intent(2)))
    assert file_ledger.writable


async def test_after_a_fault_it_is_found_writable_without_an_order(
    file_ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HALTED nobody commits: a harmless write of our own finds out that the disk is well again (F48)."""
    monkeypatch.setattr("daemon.edge.ledger.BEAT_S", 0.05)
    with locked(file_ledger.config):
        assert not await file_ledger.commit(make_submit(make_intent(1)))
        async with asyncio.timeout(10):
            while file_ledger.writable:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while not file_ledger.writable:
            await asyncio.sleep(0.01)


async def test_a_fill_is_booked_once(ledger: SqlLedger) -> None:
    """Replayed trades change nothing (F31); the same trade id of another symbol is another trade."""
    intent = make_intent(1)
    ledger.record(opening("1000"))
    for _ in range(3):
        ledger.record(Booked(fill=make_fill(1, intent), flow=None))
    ledger.record(Booked(fill=make_fill(1, intent, symbol="ETH/USDT", fee_asset="ETH"), flow=None))
    assert await ledger.flush(5)
    books = await ledger.books()

    assert books.positions == {"BTC/USDT": D("0.4995"), "ETH/USDT": D("0.4995")}
    assert books.cash == D(1000) - 2 * D("50.050")


async def test_average_entry_is_what_the_engine_computes(ledger: SqlLedger) -> None:
    """Two buys average by quantity; a complete sale forgets the entry."""
    intent = make_intent(1)
    ledger.record(Booked(fill=make_fill(1, intent, qty=D(1), price=D(100), fee=D(0)), flow=None))
    ledger.record(Booked(fill=make_fill(2, intent, qty=D(3), price=D(200), fee=D(0)), flow=None))
    await ledger.flush(5)
    held = await ledger.books()
    ledger.record(Booked(fill=make_fill(3, intent, qty=D(4), side=Side.SELL, fee=D(0)), flow=None))
    await ledger.flush(5)
    flat = await ledger.books()

    assert held.entries == {"BTC/USDT": 175.0}
    assert (flat.entries, flat.positions) == ({}, {})


async def test_state_and_orders_survive(config: LedgerConfig) -> None:
    """The engine's own state comes back as it was last persisted."""
    one = await reopen(config)
    one.record(Persist(state_json='{"a":1}'))
    one.record(Persist(state_json='{"a":2}'))
    await one.close()
    two = SqlLedger(config, clock=Clock())
    restored = await two.open()
    await two.close()

    assert restored.state_json == '{"a":2}'


async def test_stated_quantity_never_falls(ledger: SqlLedger) -> None:
    """Older news does not take back what the venue stated before (F30)."""
    intent = make_intent(1, tif=Tif.GTC)
    assert await ledger.commit(make_submit(intent))
    ledger.record(news(intent, OrderState.ACKED, filled="0.4"))
    ledger.record(news(intent, OrderState.ACKED, filled="0.1", venue_id=""))
    await ledger.flush(5)
    record = (await ledger.find_orders((intent.client_id,)))[intent.client_id]

    with LedgerReader(ledger.config.place) as reader:
        assert reader.orders(1)[0].filled == D("0.4")
    assert (record.filled, record.venue_id) == (D(0), "7")


async def test_second_instance_is_refused(ledger: SqlLedger, config: LedgerConfig) -> None:
    """The folder has one owner (75)."""
    other = SqlLedger(config, clock=Clock())
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        await other.open()


async def test_same_account_in_another_folder_is_refused(tmp_path: Path, config: LedgerConfig) -> None:
    """Two state directories on one key: the machine's lock refuses the second (F46)."""
    live = msgspec.structs.replace(config, mode="live", account="hash", folder=tmp_path / "a")
    one = await reopen(live)
    other = SqlLedger(msgspec.structs.replace(live, folder=tmp_path / "b"), clock=Clock())
    with pytest.raises(AlreadyRunning, match="account on binance"):
        await other.open()
    await one.close()


@pytest.mark.parametrize(("key", "value"), [("quote", "EUR"), ("venue", "kraken"), ("account", "other")])
async def test_change_of_identity_while_holding_is_refused(config: LedgerConfig, key: str, value: str) -> None:
    """Quote, venue and account are fixed while positions are held (78), and free again when flat."""
    one = await reopen(config)
    one.record(opening("1000"))
    one.record(Booked(fill=make_fill(1, make_intent(1)), flow=None))
    await one.close()
    changed = msgspec.structs.replace(config, **{key: value})
    with pytest.raises(ConfigError, match=r"positions are held \(BTC/USDT\)") as caught:
        await SqlLedger(changed, clock=Clock()).open()
    back = await reopen(config)
    sale = make_fill(2, make_intent(2), side=Side.SELL, qty=D("0.4995"), fee=D(1), fee_asset="USDT")
    back.record(Booked(fill=sale, flow=None))
    await back.close()
    two = SqlLedger(changed, clock=Clock())
    restored = await two.open()
    books = await two.books()
    await two.close()

    assert caught.value.exit_code == 78
    assert restored.cash == 0
    assert restored.positions == ()
    assert books.total == {}
    assert two.first_start


async def test_open_order_blocks_a_change_of_identity(config: LedgerConfig) -> None:
    """An order whose fate is open belongs to the old account too."""
    one = await reopen(config)
    assert await one.commit(make_submit(make_intent(1)))
    await one.close()
    with pytest.raises(ConfigError, match="1 orders are open"):
        await SqlLedger(msgspec.structs.replace(config, quote="EUR"), clock=Clock()).open()


async def test_commit_that_lands_late_is_denied(ledger: SqlLedger) -> None:
    """Nobody waits any more when the disk answers: the intent is DENIED before anything else happens."""
    intent = make_intent(1)
    ticket = Ticket()
    store = ledger._store

    class Slow:
        """A ticket that is abandoned between the last check and the commit."""

        abandoned = False

        def land(self) -> bool:
            """Lose the race."""
            ticket.abandon()
            return ticket.land()

    landed = await ledger._run(lambda: store.commit(make_submit(intent), Slow()))  # type: ignore[arg-type]
    record = (await ledger.find_orders((intent.client_id,)))[intent.client_id]

    assert landed is False
    assert record.state is OrderState.DENIED


async def test_busy_disk_means_not_committed(ledger: SqlLedger, hasty: None) -> None:
    """A thread that does not answer within the limit yields false, and the intent is not in the ledger afterwards."""
    gate = threading.Event()
    blocker = ledger._submit(gate.wait)
    committed = await ledger.commit(make_submit(make_intent(1)))
    gate.set()
    await blocker

    assert committed is False
    assert await ledger.unfinished() == []
    assert await ledger.commit(make_submit(make_intent(1)))


async def test_locked_database_means_not_committed(ledger: SqlLedger, config: LedgerConfig) -> None:
    """Another writer on the tables: bounded wait, then deny; rows that follow the venue wait and are written (F49)."""
    with locked(config):
        committed = await ledger.commit(make_submit(make_intent(1)))
        ledger.record(opening("1000"))
        flushed = await ledger.flush(0.5)
        waiting = ledger.backlog

    assert committed is False
    assert (flushed, waiting) == (False, 1)
    assert await ledger.flush(5)
    assert await ledger.commit(make_submit(make_intent(2)))
    assert ledger.writable
    assert (await ledger.books()).cash == D(1000)


async def test_read_only_database_means_not_committed(file_ledger: SqlLedger) -> None:
    """A ledger that cannot be written denies orders, keeps fills in memory and writes them when it can (F48)."""
    connection = file_ledger._store._connection
    assert connection is not None

    def only_read(on: int) -> Callable[[], None]:
        def switch() -> None:
            connection.exec_driver_sql(f"PRAGMA query_only={on}")
            connection.commit()

        return switch

    await file_ledger._run(only_read(1))
    committed = await file_ledger.commit(make_submit(make_intent(1)))
    file_ledger.record(Booked(fill=make_fill(1, make_intent(1)), flow=None))
    flushed = await file_ledger.flush(0.3)
    writable = file_ledger.writable
    await file_ledger._run(only_read(0))

    assert committed is False
    assert (flushed, writable) == (False, False)
    assert await file_ledger.flush(5)
    assert set((await file_ledger.books()).positions) == {"BTC/USDT"}


async def test_full_disk_means_not_committed(file_ledger: SqlLedger) -> None:
    """No page left: deny; the database stays sound (F48)."""
    connection = file_ledger._store._connection
    assert connection is not None

    def limit_pages() -> None:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={used}")
        connection.commit()

    await file_ledger._run(limit_pages)
    big = make_submit(*(make_intent(n, decision="d1", leg=n) for n in range(400)))
    assert not await file_ledger.commit(big)
    assert await file_ledger.unfinished() == []


@pytest.mark.parametrize("damage", ["header", "middle"])
async def test_damaged_database_is_kept_and_refused(file_config: LedgerConfig, damage: str) -> None:
    """A corrupt file is a configuration error with a remedy; not one byte of it is changed (F50)."""
    one = await reopen(file_config)
    for n in range(300):
        assert await one.commit(make_submit(make_intent(n)))
    await one.close()
    raw = bytearray(file_config.path.read_bytes())
    start = 0 if damage == "header" else 4_096 * 4
    raw[start : start + 6_000] = b"\xa5" * 6_000
    file_config.path.write_bytes(bytes(raw))
    with pytest.raises(ConfigError, match="kept as it is") as caught:
        await SqlLedger(file_config, clock=Clock()).open()

    assert caught.value.exit_code == 78
    assert file_config.path.read_bytes() == bytes(raw)
    with pytest.raises(ConfigError):  # the lock was released, the refusal is the same
        await SqlLedger(file_config, clock=Clock()).open()


async def test_a_row_the_database_refuses_does_not_hold_up_the_rest(ledger: SqlLedger) -> None:
    """Not-a-number is no amount: that row is reported, the others are written."""
    intent = make_intent(1)
    ledger.record(Booked(fill=make_fill(1, intent), flow=None))
    ledger.record(Booked(fill=make_fill(2, intent, qty=D("NaN")), flow=None))
    ledger.record(Booked(fill=make_fill(3, intent), flow=None))
    assert await ledger.flush(5)

    assert (await ledger.last_trades()) == {"BTC/USDT": 3}
    assert await ledger.known_trades("BTC/USDT", ("1", "2", "3")) == {"1", "3"}


async def test_words_of_others_never_cost_a_row(ledger: SqlLedger) -> None:
    """A code that is too long, or holds what a server cannot store, is cut; the fate it came with is written."""
    intent = make_intent(1)
    assert await ledger.commit(make_submit(intent))
    ledger.record(news(intent, OrderState.REJECTED, code="-2010 \0\ud800 " + "é" * 300))
    ledger.record(Booked(fill=None, flow=Flow(asset="USDT", amount=D(1), ours=True, detail="a\0b\ud800", ts_ns=1)))
    assert await ledger.flush(5)

    with LedgerReader(ledger.config.place) as reader:
        assert reader.orders(1)[0].state is OrderState.REJECTED
        (row,) = reader.rows_of(tables.intents, "client_id", [intent.client_id])
        assert row["code"] == ("-2010 \ufffd? " + "é" * 300)[:128]
        assert [flow.detail for flow in reader.flows()] == ["a\ufffdb?"]


async def test_rows_written_singly_are_not_written_again(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database fails between two single rows: the next attempt goes on where this one stopped."""
    real, calls = rows.write_row, [0]

    def flaky(connection: Connection, row: rows.Written, book: int) -> bool:
        calls[0] += 1
        if calls[0] == 5:  # flow and bad row together, then singly: flow, bad row, and the disk fails
            raise OperationalError("", {}, Exception("disk I/O error"))
        return real(connection, row, book)

    monkeypatch.setattr(rows, "write_row", flaky)
    ledger._idle.clear()  # hold the writer until all rows are queued
    ledger.record(opening("1"))
    ledger.record(Booked(fill=make_fill(2, make_intent(1), qty=D("NaN")), flow=None))
    ledger.record(opening("10"))
    ledger._again()
    assert await ledger.flush(5)

    assert (await ledger.books()).cash == D(11)
    with LedgerReader(ledger.config.place) as reader:
        assert [flow.amount for flow in reader.flows()] == [D(1), D(10)]


async def test_sums_in_memory_are_those_of_the_rows(ledger: SqlLedger, config: LedgerConfig) -> None:
    """The running totals equal what a reader adds up from the rows, replayed fills included."""
    ledger.record(opening("1000"))
    for n in range(20):
        side = Side.SELL if n % 3 == 2 else Side.BUY
        for _ in range(2):
            ledger.record(Booked(fill=make_fill(n, make_intent(n), side=side, price=D(n) + D("0.1")), flow=None))
    await ledger.flush(5)
    books = await ledger.books()

    with LedgerReader(config.place) as reader:
        read = reader.books()
    assert (books.total, books.cash, books.positions) == (read.total, read.cash, read.positions)
    assert books.entries == read.entries


async def test_killed_process_keeps_what_it_committed(config: LedgerConfig) -> None:
    """SIGKILL right after commit() returned true: the intent is there (I2)."""
    code = f"""
import asyncio, os, signal, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2]), *sys.path]!r}
from test_ledger import LedgerConfig, SqlLedger, Clock, make_intent, make_submit, place_of
import daemon.edge.ledger
daemon.edge.ledger.COMMIT_MS_MAX = 10_000
async def main():
    at = place_of(sys.argv[2], folder=Path(sys.argv[1]), mode="paper")
    ledger = SqlLedger(LedgerConfig(folder=Path(sys.argv[1]), instance="main", mode="paper", venue="binance",
                                    quote="USDT", at=at), clock=Clock())
    await ledger.open()
    assert await ledger.commit(make_submit(make_intent(1)))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    server = config.place.server
    url = "" if config.place.path else f"postgresql://{server['user']}@127.0.0.1:{server['port']}/{server['dbname']}"
    child = subprocess.run([sys.executable, "-c", code, str(config.folder), url], check=False, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    one = SqlLedger(config, clock=Clock())
    restored = await one.open()
    await one.close()

    assert [record.intent.client_id for record in restored.orders] == [make_intent(1).client_id]
    assert restored.epoch == 2


async def test_reader_sees_the_running_ledger(ledger: SqlLedger, config: LedgerConfig) -> None:
    """API and CLI read beside the writer, and after it has gone."""
    intent = make_intent(1)
    assert await ledger.commit(make_submit(intent))
    ledger.record(opening("1000"))
    ledger.record(Booked(fill=make_fill(1, intent), flow=None))
    await ledger.flush(5)
    with LedgerReader(config.place) as reader:
        running = reader.summary()
        assert reader.open_orders()[0].intent == intent
        assert reader.fills(10) == [make_fill(1, intent)]
        assert reader.flows()[0].amount == 1000
        assert reader.orders(5)[0].intent == intent
    await ledger.close()
    with LedgerReader(config.place) as reader:
        assert reader.summary() == running

    assert running.balances == {"BTC": D("0.4995"), "USDT": D("949.950")}
    assert running.fees == {"BTC": D("0.0005")}
    assert (running.orders, running.fills, running.unresolved) == (1, 1, 1)


async def test_close_writes_what_is_queued(config: LedgerConfig) -> None:
    """Nothing recorded before close is lost, however much it is."""
    one = await reopen(config)
    for n in range(1_000):
        one.record(opening("1", asset=f"A{n}", ours=False))
    await one.close()
    with LedgerReader(config.place) as reader:
        assert len(reader.balances()) == 1_000
        assert reader.summary().cash == 0


async def test_a_closed_ledger_stays_closed(config: LedgerConfig) -> None:
    """A question that comes late does not take the locks again: the next owner may open it."""
    one = await reopen(config)
    store = one._store
    await one.close()
    with pytest.raises(ConfigError, match="is not open"):
        store.read(lambda connection, _book: rows.unfinished(connection))
    with pytest.raises(ConfigError, match="is not open"):
        store.commit(make_submit(make_intent(1)), Ticket())
    two = await reopen(config)
    assert await two.commit(make_submit(make_intent(1)))
    await two.close()


async def test_missing_ledger_is_named(config: LedgerConfig) -> None:
    """The reader does not make a ledger."""
    with pytest.raises(ConfigError, match="does not exist"):
        LedgerReader(config.place)


async def test_concurrent_commits_are_serialised(ledger: SqlLedger) -> None:
    """Many decisions at once: each is durable or refused, none is half there."""
    results = await asyncio.gather(*(ledger.commit(make_submit(make_intent(n))) for n in range(20)))
    committed = {record.intent.decision for record in await ledger.unfinished()}

    assert committed == {f"d{n}" for n, ok in enumerate(results) if ok}


amounts = st.decimals(min_value="0.00000001", max_value="1e12", places=8)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["BTC/USDT", "ETH/USDT", "BNB/USDT"]),
            st.sampled_from(list(Side)),
            amounts,
            amounts,
            amounts,
            st.sampled_from(["base", "quote", "BNB", "TRX"]),
        ),
        max_size=30,
    )
)
def test_money_is_conserved_to_the_last_digit(trades: list[tuple[str, Side, Decimal, Decimal, Decimal, str]]) -> None:
    """Per asset: opening + signed fills - fees = balance, exactly, whatever asset pays the fee (I3, F40)."""
    books = Books("USDT")
    books.book_flow(Flow(asset="USDT", amount=D("1000000.00000001"), ours=True, detail="", ts_ns=0))
    whole: dict[str, int] = {"USDT": 1_000_000_00000001 * 10**8}  # in units of 1e-16, integers cannot round
    for n, (symbol, side, qty, price, fee, payer) in enumerate(trades):
        base, quote = symbol.split("/")
        asset = {"base": base, "quote": quote}.get(payer, payer)
        intent = make_intent(n, symbol=symbol, side=side, qty=qty, limit=price)
        books.book_fill(make_fill(n, intent, fee=fee, fee_asset=asset))
        sign = 1 if side is Side.BUY else -1
        with exactly():
            q, p, f = (int(x.scaleb(8)) for x in (qty, price, fee))
        for name, amount in ((base, sign * q * 10**8), (quote, -sign * q * p), (asset, -f * 10**8)):
            whole[name] = whole.get(name, 0) + amount

    with exactly():
        counted = {asset: int(amount.scaleb(16)) for asset, amount in books.total.items()}

    assert counted == {asset: units for asset, units in whole.items() if units}
