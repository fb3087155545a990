"""What only a server can do to a ledger: restart, forget, freeze, answer late, and let two in (F46, F49, P18, I15)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from daemon.domain.errors import AlreadyRunning, ConfigError, Transient, Unreachable
from daemon.domain.events import Booked
from daemon.domain.orders import OrderState
from daemon.edge import fence
from daemon.edge import ledger as ledger_module
from daemon.edge import postgres as pg
from daemon.edge.clock import Clock
from daemon.edge.database import LedgerConfig, engine_of, place_of
from daemon.edge.ledger import SqlLedger
from daemon.edge.ledger_open import own
from daemon.edge.ledger_read import LedgerReader
from daemon.edge.ledger_store import LedgerLost, Superseded, Ticket
from tests.edge.postgres import GUARDED, PASSWORD, Server
from tests.edge.test_ledger import hasty, make_fill, make_intent, make_submit, opening, patient, reopen

__all__ = ["hasty", "patient"]

LIMIT_S = 20.0


@pytest.fixture
def config(tmp_path: Path, postgres: Server, postgres_database: str) -> LedgerConfig:
    """A live ledger on a server."""
    folder = tmp_path / "a"
    return LedgerConfig(
        folder=folder,
        instance="main",
        mode="live",
        venue="binance",
        quote="USDT",
        account="hash",
        lock_folder=tmp_path,
        at=place_of(postgres.url(postgres_database), folder=folder, mode="live"),
    )


@pytest.fixture
def elsewhere(config: LedgerConfig, tmp_path: Path) -> LedgerConfig:
    """The same account seen from another machine: no lock of this one is shared."""
    locks = tmp_path / "other"
    locks.mkdir()
    return msgspec.structs.replace(config, folder=tmp_path / "b", lock_folder=locks)


@pytest.fixture
async def ledger(config: LedgerConfig) -> AsyncIterator[SqlLedger]:
    """An open ledger."""
    one = await reopen(config)
    yield one
    await one.close()


async def eventually(ask: Callable[[], object], what: str) -> None:
    """Wait until the answer is true."""
    async with asyncio.timeout(LIMIT_S):
        while not ask():
            await asyncio.sleep(0.02)
    assert ask(), what


async def committed(ledger: SqlLedger, first: int) -> int:
    """Commit new intents until one is durable; return its number."""
    number = first
    async with asyncio.timeout(LIMIT_S):
        while not await ledger.commit(make_submit(make_intent(number))):
            number += 1
            await asyncio.sleep(0.05)
    return number


# ---------------------------------------------------------------------------------------------- one writer


async def test_f46_another_machine_is_refused(ledger: SqlLedger, elsewhere: LedgerConfig) -> None:
    """75, and the message names the session that has it."""
    with pytest.raises(AlreadyRunning, match=f"ballast main {os.getpid()}@") as caught:
        await SqlLedger(elsewhere, clock=Clock()).open()

    assert caught.value.exit_code == 75
    assert await ledger.commit(make_submit(make_intent(1)))


async def test_f46_one_account_in_two_schemas_is_refused(
    ledger: SqlLedger, elsewhere: LedgerConfig, postgres: Server, postgres_database: str
) -> None:
    """The lock is the account's, not only the ledger's: another schema of the same database does not help."""
    assert elsewhere.at is not None
    other = msgspec.structs.replace(elsewhere, at=msgspec.structs.replace(elsewhere.at, schema="ballast_other"))
    with pytest.raises(AlreadyRunning, match="account on binance"):
        await SqlLedger(other, clock=Clock()).open()


async def test_f46_a_zombies_insert_fails_on_the_fence(
    ledger: SqlLedger, elsewhere: LedgerConfig, postgres: Server, postgres_database: str
) -> None:
    """A paused instance lost its session and was replaced; woken up, it writes nothing, says so once, and stays out."""
    told: list[str] = []
    ledger.on_lost = lambda error: told.append(str(error))
    assert await ledger.commit(make_submit(make_intent(1)))
    postgres.end_sessions(postgres_database)
    two = await reopen(elsewhere)
    first = await ledger.commit(make_submit(make_intent(2)))
    ledger.record(opening("1000"))
    second = await ledger.commit(make_submit(make_intent(3)))
    await eventually(lambda: told, "the loss")

    assert (first, second) == (False, False)
    assert isinstance(ledger.lost, Superseded)
    assert ledger.lost.exit_code == 75
    assert not ledger.writable
    assert len(told) == 1
    assert "epoch 2, ours is 1" in told[0]
    assert [record.intent.client_id for record in await two.unfinished()] == [make_intent(1).client_id]
    assert (await two.books()).cash == 0
    assert await two.commit(make_submit(make_intent(2)))
    await two.close()


async def test_f46_the_fence_is_in_the_insert_itself(
    ledger: SqlLedger, elsewhere: LedgerConfig, postgres: Server, postgres_database: str
) -> None:
    """Even with its session alive and no lock in the way (a failover forgets locks), the INSERT of an old epoch fails."""
    postgres.do("UPDATE ballast_live.meta SET value = '7' WHERE key = 'epoch'", postgres_database)
    store = ledger._store
    connection = store.lease.connect()

    def insert() -> None:
        with connection.begin():
            store._write_submit(connection, make_submit(make_intent(1)))

    with pytest.raises(IntegrityError, match="epoch"):
        await ledger._run(insert)
    assert not await ledger.commit(make_submit(make_intent(2)))
    assert isinstance(ledger.lost, Superseded)
    ledger.record(Booked(fill=make_fill(1, make_intent(1)), flow=None))
    assert postgres.do("SELECT count(*) FROM ballast_live.intents", postgres_database) == [(0,)]
    assert postgres.do("SELECT count(*) FROM ballast_live.decisions", postgres_database) == [(0,)]
    assert postgres.do("SELECT count(*) FROM ballast_live.fills", postgres_database) == [(0,)]


async def test_f46_i15_nothing_is_written_before_the_locks_are_ours_again(
    ledger: SqlLedger, elsewhere: LedgerConfig, postgres: Server, postgres_database: str
) -> None:
    """The network broke; the server has not missed our old session yet, which still holds the locks: we wait for them."""
    assert await ledger.commit(make_submit(make_intent(1)))
    ((backend,),) = postgres.do(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'ballast main %' "
        f"AND datname = '{postgres_database}'"
    )
    os.kill(backend, signal.SIGSTOP)
    try:
        ledger._store.lease.cut()
        meanwhile = [await ledger.commit(make_submit(make_intent(number))) for number in range(2, 8)]
        assert not ledger.writable
    finally:
        os.kill(backend, signal.SIGCONT)
    await committed(ledger, 8)

    assert meanwhile == [False] * 6
    with pytest.raises(AlreadyRunning, match="ballast main"):
        await SqlLedger(elsewhere, clock=Clock()).open()
    assert ledger.lost is None


async def test_i15_the_epoch_waits_for_an_insert_under_way(
    ledger: SqlLedger, postgres: Server, postgres_database: str
) -> None:
    """Raising the epoch either waits for an intent of the old one, and then sees it, or comes first, and it fails."""
    store = ledger._store
    connection = store.lease.connect()
    with postgres.connect(postgres_database) as other:
        other.execute("SET lock_timeout = '100ms'")
        raise_epoch = "UPDATE ballast_live.meta SET value = '2' WHERE key = 'epoch'"
        with connection.begin():
            store._write_submit(connection, make_submit(make_intent(1)))
            with pytest.raises(Exception, match="lock timeout"):
                other.execute(raise_epoch)
        other.execute("BEGIN")
        other.execute(raise_epoch)
        waiting = ledger._submit(lambda: store.commit(make_submit(make_intent(2)), Ticket()))
        other.execute("COMMIT")
        with contextlib.suppress(Exception):
            await waiting

    assert postgres.do("SELECT client_id FROM ballast_live.intents", postgres_database) == [(make_intent(1).client_id,)]


async def test_two_starts_at_once_get_two_epochs(
    config: LedgerConfig, postgres: Server, postgres_database: str
) -> None:
    """Without any lock, which a failover may forget, each start still gets an epoch of its own."""
    one_start = await reopen(config)
    await one_start.close()
    first, second = engine_of(config.place).connect(), engine_of(config.place).connect()
    with first.begin():
        one = own(first, config)
        later = asyncio.get_running_loop().run_in_executor(None, lambda: _own(second, config))
        await eventually(
            lambda: postgres.do("SELECT 1 FROM pg_locks WHERE NOT granted", postgres_database), "the second waits"
        )
    two = await later
    first.close()
    second.close()

    assert (one.epoch, two) == (2, 3)


def _own(connection: Connection, config: LedgerConfig) -> int:
    with connection.begin():
        return own(connection, config).epoch


# ---------------------------------------------------------------------------------------------- F49: the server


async def test_f49_the_server_restarts(ledger: SqlLedger, postgres: Server) -> None:
    """While it is away orders are denied and rows wait; then everything is written once, without anybody's help."""
    assert await ledger.commit(make_submit(make_intent(1)))
    ledger.record(opening("1000"))
    assert await ledger.flush(5)
    postgres.stop(signal.SIGKILL)
    denied = await ledger.commit(make_submit(make_intent(2)))
    ledger.record(Booked(fill=make_fill(1, make_intent(1)), flow=None))
    ledger.record(opening("7", asset="ETH", ours=False))
    with pytest.raises(Transient):
        await ledger.unfinished()
    assert not ledger.writable
    postgres.start()
    number = await committed(ledger, 3)
    assert await ledger.flush(LIMIT_S)

    assert denied is False
    assert ledger.writable
    names = {record.intent.client_id for record in await ledger.unfinished()}
    assert names == {make_intent(1).client_id, make_intent(number).client_id}
    fill = make_fill(1, make_intent(1))
    books = await ledger.books()
    with LedgerReader(ledger.config.place) as reader:
        assert reader.books().total == books.total
    assert books.total == {"USDT": books.cash, "BTC": fill.qty - fill.fee, "ETH": 7}


async def test_f49_it_recovers_without_an_order(ledger: SqlLedger, postgres: Server) -> None:
    """HALTED nobody commits anything: the heartbeat alone finds the way back."""
    postgres.stop(signal.SIGKILL)
    assert not await ledger.commit(make_submit(make_intent(1)))
    postgres.start()
    await eventually(lambda: ledger.writable, "writable again")


async def test_f49_a_slow_commit_is_denied_and_marked(
    ledger: SqlLedger, hasty: None, postgres: Server, postgres_database: str
) -> None:
    """A commit that lasts until we let it: denied before it ends, DENIED in the ledger when it lands, the next one is fine."""
    postgres.do("CREATE TABLE ballast_live.hold AS SELECT 1 AS one", postgres_database)
    postgres.do("GRANT SELECT ON ballast_live.hold TO PUBLIC", postgres_database)
    postgres.do(
        "CREATE FUNCTION ballast_live.slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN WHILE EXISTS (SELECT 1 FROM ballast_live.hold) LOOP PERFORM pg_sleep(0.02); END LOOP; RETURN NULL; END $$",
        postgres_database,
    )
    postgres.do(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON ballast_live.decisions DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION ballast_live.slow()",
        postgres_database,
    )
    denied = await ledger.commit(make_submit(make_intent(1)))
    postgres.do("DELETE FROM ballast_live.hold", postgres_database)
    states = {name: record.state for name, record in (await ledger.find_orders((make_intent(1).client_id,))).items()}
    postgres.do("DROP TRIGGER slow ON ballast_live.decisions", postgres_database)

    assert denied is False
    assert states == {make_intent(1).client_id: OrderState.DENIED}
    await committed(ledger, 2)


async def test_f49_a_deadlock_is_denied_and_passes(ledger: SqlLedger, postgres: Server, postgres_database: str) -> None:
    """Two transactions wait for each other: nothing is half there, and the next commit is fine."""
    with postgres.connect(postgres_database) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE ballast_live.intents IN ACCESS EXCLUSIVE MODE")
        denied = asyncio.create_task(ledger.commit(make_submit(make_intent(1))))
        await eventually(
            lambda: postgres.do("SELECT 1 FROM pg_locks WHERE NOT granted", postgres_database), "it waits for us"
        )
        with contextlib.suppress(Exception):
            await asyncio.to_thread(other.execute, "LOCK TABLE ballast_live.decisions IN ACCESS EXCLUSIVE MODE")
        assert await denied is False
        other.execute("ROLLBACK")

    assert postgres.do("SELECT count(*) FROM ballast_live.decisions", postgres_database) == [(0,)]
    await committed(ledger, 2)


async def test_f49_a_frozen_server_denies_and_is_noticed(ledger: SqlLedger, hasty: None, postgres: Server) -> None:
    """Nothing answers at all: denied in time, not writable after two heartbeats, and well again when it wakes."""
    with postgres.frozen():
        assert not await ledger.commit(make_submit(make_intent(1)))
        assert not await ledger.commit(make_submit(make_intent(2)))
        await eventually(lambda: not ledger.writable, "not writable")
    await eventually(lambda: ledger.writable, "writable again")
    number = await committed(ledger, 3)
    found = await ledger.find_orders(tuple(make_intent(n).client_id for n in range(1, number + 1)))

    assert {name: one.state for name, one in found.items() if one.state is not OrderState.DENIED} == {
        make_intent(number).client_id: OrderState.SENDING
    }


async def test_f49_a_server_that_never_answers_is_left(
    ledger: SqlLedger, hasty: None, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wire is cut under a thread that waits for ever, and closing does not wait for it either."""
    monkeypatch.setattr(ledger_module, "STUCK_S_MAX", 0.1)
    monkeypatch.setattr(ledger_module, "BEAT_S", 0.2)
    with postgres.frozen():
        assert not await ledger.commit(make_submit(make_intent(1)))
        await eventually(lambda: ledger._store.lease.lost or ledger._store.lease.connection is None, "the wire cut")
        async with asyncio.timeout(LIMIT_S):
            await ledger.close()


@pytest.mark.parametrize("landed", [True, False])
async def test_a_batch_whose_answer_was_lost_is_written_once(
    ledger: SqlLedger, postgres: Server, postgres_database: str, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """The connection dies around COMMIT: money that was booked is not booked again, money that was not is."""
    store = ledger._store
    connection = store.lease.connect()
    real = connection.dialect.do_commit
    cut = [0]

    def commit(raw: object) -> None:
        with postgres.connect(postgres_database) as admin:
            waiting = admin.execute(
                "SELECT count(*) FROM pg_locks WHERE mode = 'RowShareLock' AND relation = 'ballast_live.meta'::regclass"
            ).fetchone()
        if cut[0] or waiting == (0,):
            real(raw)  # type: ignore[arg-type]
            return
        cut[0] = 1
        if landed:
            real(raw)  # type: ignore[arg-type]
        postgres.end_sessions(postgres_database)
        raw.execute("SELECT 1")  # type: ignore[attr-defined]

    monkeypatch.setattr(connection.dialect, "do_commit", commit)
    ledger.record(opening("1000"))
    assert await ledger.flush(LIMIT_S)

    assert cut == [1]
    assert (await ledger.books()).cash == 1000
    with LedgerReader(ledger.config.place) as reader:
        assert [flow.amount for flow in reader.flows()] == [1000]


async def test_a_batch_in_doubt_stays_so_while_the_server_comes_and_goes(
    ledger: SqlLedger, postgres: Server, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to COMMIT was lost, and then the answer to whether it landed: the money is booked once all the same."""
    dialect = ledger._store.lease.connect().dialect
    real_commit, real_mark = dialect.do_commit, fence.batch_mark
    asked: list[str] = []

    def commit(raw: object) -> None:
        real_commit(raw)  # type: ignore[arg-type]
        with postgres.connect(postgres_database) as admin:
            landed = admin.execute("SELECT count(*) FROM ballast_live.flows").fetchone()
        if landed == (1,):
            monkeypatch.setattr(dialect, "do_commit", real_commit)
            postgres.end_sessions(postgres_database)
            raw.execute("SELECT 1")  # type: ignore[attr-defined]

    def batch_mark(connection: Connection) -> str:
        asked.append("")
        if len(asked) == 2:  # the first time it was seen that nothing is forgotten
            postgres.end_sessions(postgres_database)
        return real_mark(connection)

    monkeypatch.setattr(dialect, "do_commit", commit)
    monkeypatch.setattr(fence, "batch_mark", batch_mark)
    ledger.record(opening("1000"))
    assert await ledger.flush(LIMIT_S)

    assert len(asked) > 2
    assert ledger.lost is None
    assert (await ledger.books()).cash == 1000
    with LedgerReader(ledger.config.place) as reader:
        assert [flow.amount for flow in reader.flows()] == [1000]


async def test_an_intent_whose_answer_was_lost_is_denied(
    ledger: SqlLedger, postgres: Server, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit landed and nobody heard of it: the order is not sent, and the ledger says so as soon as it can."""
    dialect = ledger._store.lease.connect().dialect
    real = dialect.do_commit

    def commit(raw: object) -> None:
        monkeypatch.setattr(dialect, "do_commit", real)
        real(raw)  # type: ignore[arg-type]
        postgres.end_sessions(postgres_database)
        raw.execute("SELECT 1")  # type: ignore[attr-defined]

    monkeypatch.setattr(dialect, "do_commit", commit)
    assert not await ledger.commit(make_submit(make_intent(1)))
    number = await committed(ledger, 2)
    found = await ledger.find_orders((make_intent(1).client_id, make_intent(number).client_id))

    assert found[make_intent(1).client_id].state is OrderState.DENIED
    assert found[make_intent(number).client_id].state is OrderState.SENDING


@pytest.mark.parametrize("gone", ["intents", "flows"])
async def test_f49_a_server_that_forgot_ends_the_daemon(
    ledger: SqlLedger, postgres: Server, postgres_database: str, gone: str
) -> None:
    """A replica that lagged was made the primary: what had been confirmed is missing, so this instance must not go on."""
    ledger.record(opening("1000"))
    assert await ledger.flush(5)
    assert await ledger.commit(make_submit(make_intent(1)))
    if gone == "intents":
        postgres.do("DELETE FROM ballast_live.intents", postgres_database)
    else:
        postgres.do("UPDATE ballast_live.state SET value = '1-0' WHERE key = 'batch'", postgres_database)
    postgres.end_sessions(postgres_database)
    await eventually(lambda: ledger.lost, "the loss")

    assert isinstance(ledger.lost, LedgerLost)
    assert ledger.lost.exit_code == 1
    assert "start again" in str(ledger.lost)


async def test_f49_a_failover_is_followed(config: LedgerConfig, tmp_path: Path) -> None:
    """The primary dies and its replica is promoted: denied meanwhile, then it goes on there, with everything it had."""
    primary = Server().start()
    replica = None
    try:
        replica = await asyncio.to_thread(primary.replica)
        url = (
            f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{replica.port}/?target_session_attrs=read-write"
        )
        one = await reopen(msgspec.structs.replace(config, at=place_of(url, folder=tmp_path, mode="live")))
        one.record(opening("1000"))
        number = await committed(one, 1)
        assert await one.flush(LIMIT_S)
        await asyncio.to_thread(primary.stop, signal.SIGKILL)
        assert not await one.commit(make_submit(make_intent(100)))
        one.record(opening("10"))
        assert not one.writable
        await asyncio.to_thread(replica.promote)
        later = await committed(one, 101)
        assert await one.flush(LIMIT_S)
        names = {record.intent.client_id for record in await one.unfinished()}
        books = await one.books()
        await one.close()
        with LedgerReader(one.config.place) as reader:
            cash = reader.books().cash
    finally:
        primary.close()
        if replica is not None:
            replica.close()

    assert names == {make_intent(number).client_id, make_intent(later).client_id}
    assert books.cash == cash == 1010
    assert one.lost is None


async def test_a_frozen_machine_loses_its_lease(
    config: LedgerConfig, elsewhere: LedgerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that stands still is not heard any more: the server ends its session, and a standby may have the ledger."""
    code = f"""
import asyncio, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parents[2]), *sys.path]!r}
from daemon.edge import ledger, postgres
postgres.LEASE_S = 1
ledger.COMMIT_MS_MAX = 10_000
from tests.edge.test_ledger import Clock, LedgerConfig, SqlLedger, make_intent, make_submit, place_of
async def main():
    folder = Path(sys.argv[1])
    at = place_of(sys.argv[2], folder=folder, mode="live")
    ledger = SqlLedger(LedgerConfig(folder=folder, instance="main", mode="live", venue="binance", quote="USDT",
                                    account="hash", lock_folder=folder.parent, at=at), clock=Clock())
    await ledger.open()
    assert await ledger.commit(make_submit(make_intent(1)))
    print("open", flush=True)
    sys.stdin.readline()
    durable = False
    while ledger.lost is None and not durable:
        durable = await ledger.commit(make_submit(make_intent(2)))
    print(durable, ledger.lost, flush=True)
asyncio.run(main())
"""
    server = config.place.server
    url = f"postgresql://{server['user']}@127.0.0.1:{server['port']}/{server['dbname']}"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(config.folder), url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "open\n"
        child.send_signal(signal.SIGSTOP)
        two = SqlLedger(elsewhere, clock=Clock())
        async with asyncio.timeout(LIMIT_S):
            while await two.take():
                await asyncio.sleep(0.05)
        restored = await two.open()
        child.send_signal(signal.SIGCONT)
        said = (await asyncio.to_thread(child.communicate, "\n"))[0].splitlines()[-1]

    assert [record.intent.client_id for record in restored.orders] == [make_intent(1).client_id]
    assert said.startswith("False ")
    assert "another instance has taken over" in said
    await two.close()


# ---------------------------------------------------------------------------------------------- getting there


async def test_a_server_that_is_starting_is_waited_for(config: LedgerConfig, postgres: Server) -> None:
    """A machine that boots starts both at once."""
    postgres.stop()
    opening_now = asyncio.create_task(reopen(config))
    await asyncio.sleep(0)
    await asyncio.to_thread(postgres.start)
    one = await opening_now
    assert await one.commit(make_submit(make_intent(1)))
    await one.close()


async def test_a_server_that_never_comes_is_unreachable(
    config: LedgerConfig, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """69 after bounded retries; a reader says so at once."""
    monkeypatch.setattr(ledger_module, "OPEN_S_MAX", 0.2)
    monkeypatch.setattr(ledger_module, "OPEN_PAUSE_S", 0.05)
    postgres.stop()
    with pytest.raises(Unreachable, match=r"no answer within .*start the server") as caught:
        await reopen(config)
    with pytest.raises(Unreachable, match="check ledger.url"):
        LedgerReader(config.place)

    assert caught.value.exit_code == 69
    assert len(str(caught.value).splitlines()) == 1


async def test_i18_a_wrong_password_is_one_line_without_it(
    config: LedgerConfig, postgres: Server, postgres_database: str, tmp_path: Path
) -> None:
    """78 at once, for writer and reader, and neither the password nor a part of it is in the message."""
    url = postgres.url(postgres_database, role=GUARDED)
    place = place_of(url, folder=tmp_path, mode="live", password=f"wrong{PASSWORD}")
    guarded = msgspec.structs.replace(config, at=place)
    with pytest.raises(ConfigError, match="password authentication failed") as caught:
        await reopen(guarded)
    with pytest.raises(ConfigError, match="password authentication failed"):
        await SqlLedger(guarded, clock=Clock()).take()
    with pytest.raises((ConfigError, Unreachable), match="password authentication failed") as reading:
        LedgerReader(place)

    for text in (str(caught.value), repr(caught.value), str(reading.value), repr(guarded), repr(place)):
        assert PASSWORD not in text


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}%zz@h/d",
        f"postgresql://u:{PASSWORD}@h:port/d",
        f"postgresql://u:a@{PASSWORD}/b@h/d?nonsense=1",
        f"postgresql://u@h/d?passwort={PASSWORD}",
    ],
)
def test_i18_a_url_that_cannot_be_read_is_not_repeated(url: str, tmp_path: Path) -> None:
    """What is wrong with it may be its password."""
    try:
        shown = f"{place_of(url, folder=tmp_path, mode='live')!r}"
    except ConfigError as error:
        shown = str(error)
        assert "ledger.url" in shown
    assert PASSWORD not in shown


def test_the_password_may_come_with_the_url_or_from_a_file(tmp_path: Path) -> None:
    """Both reach the driver; the file wins; neither is shown."""
    url = f"postgresql+psycopg://u:{PASSWORD}@h1:5432,h2:5433/d?target_session_attrs=read-write&sslmode=require"
    with_url = place_of(url, folder=tmp_path, mode="paper")
    with_file = place_of(url, folder=tmp_path, mode="paper", password="other")

    assert with_url.server["password"] == PASSWORD
    assert with_file.server["password"] == "other"
    assert with_url.server["host"] == "h1,h2"
    assert str(with_url) == "postgresql://u@h1,h2:5432,5433/d (schema ballast_paper)"


def test_a_server_without_fsync_is_refused(config: LedgerConfig, postgres: Server, tmp_path: Path) -> None:
    """What it confirms it may lose in a power cut: 78 before anything is written."""
    careless = Server()
    try:
        (careless.data / "postgresql.auto.conf").write_text("fsync = off\n")
        careless.start()
        place = place_of(careless.url(role="postgres"), folder=tmp_path, mode="live")
        with pytest.raises(ConfigError, match="fsync = off"):
            asyncio.run(reopen(msgspec.structs.replace(config, at=place)))
    finally:
        careless.close()


async def test_a_session_commits_durably_whatever_the_role_says(
    config: LedgerConfig, postgres: Server, postgres_database: str
) -> None:
    """`synchronous_commit = off`, timeouts and isolation of a role or database do not weaken the ledger."""
    for setting in (
        "synchronous_commit = off",
        "default_transaction_isolation = serializable",
        "statement_timeout = 1",
    ):
        postgres.do(f"ALTER DATABASE {postgres_database} SET {setting}")
    one = await reopen(config)
    connection = one._store.lease.connect()

    def ask() -> list[object]:
        names = ("synchronous_commit", "transaction_isolation", "statement_timeout", "idle_session_timeout")
        with connection.begin():
            return [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]

    shown = await one._run(ask)
    await one.close()

    assert shown == ["on", "read committed", "0", f"{pg.LEASE_S}s"]


async def test_the_ledger_knows_where_it_was(config: LedgerConfig, elsewhere: LedgerConfig) -> None:
    """Another folder or machine had it before: the kill latch of that one has to be taken over."""
    first = await reopen(config)
    await first.close()
    again = await reopen(config)
    await again.close()
    two = await reopen(elsewhere)
    await two.close()

    assert (first.moved, again.moved) == ("", "")
    assert two.moved.endswith(str(config.folder))


async def test_a_missing_ledger_on_a_server_is_named(config: LedgerConfig) -> None:
    """The reader makes none, and never writes."""
    with pytest.raises(ConfigError, match="does not exist"):
        LedgerReader(config.place)
    one = await reopen(config)
    with LedgerReader(config.place) as reader, pytest.raises(Exception, match="read-only"):
        reader._connection.exec_driver_sql("UPDATE meta SET value = '9'")
    await one.close()
