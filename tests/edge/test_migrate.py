"""The schema's revisions: they make exactly our tables, on both databases, and take over what was there before them."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from daemon.domain.errors import ConfigError
from daemon.edge import tables
from daemon.edge.database import LedgerConfig, Place, engine_of
from daemon.edge.ledger_read import LedgerReader
from daemon.edge.migrate import SCRIPTS, migrate
from tests.edge.test_ledger import config, file_config, make_fill, make_intent, make_submit, opening, patient, reopen

__all__ = ["config", "file_config", "patient"]
REPO = Path(__file__).resolve().parents[2]


def test_the_newest_revision_is_the_one_the_tables_name() -> None:
    """One head, and it is the constant that a start compares with."""
    assert ScriptDirectory(str(SCRIPTS)).get_heads() == [tables.REVISION]


def test_the_revisions_make_exactly_our_tables(config: LedgerConfig) -> None:
    """Migrated from nothing, a database differs in nothing from the tables that the code uses; again changes nothing."""
    config.folder.mkdir()
    engine = engine_of(config.place)
    with engine.connect() as connection:
        with connection.begin():
            assert migrate(connection, config.place) is True
        with connection.begin():
            assert migrate(connection, config.place) is False
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, tables.META) == [] or _only_versions(context)
    engine.dispose()


def _only_versions(context: MigrationContext) -> bool:
    """Say whether the one difference is Alembic's own table."""
    return all("alembic_version" in str(one) for one in compare_metadata(context, tables.META))


async def test_a_ledger_from_before_the_revisions_is_adopted(config: LedgerConfig) -> None:
    """What the first version made has no revision: it is taken over with every row, and the next start finds it in order."""
    first = await reopen(config)
    first.record(opening("1000"))
    assert await first.commit(make_submit(make_intent(1)))
    await first.close()
    _forget(config.place)
    again = await reopen(config)
    books, waiting = await again.books(), await again.unfinished()
    await again.close()

    assert books.cash == 1000
    assert [record.intent for record in waiting] == [make_intent(1)]
    with LedgerReader(config.place) as reader:
        assert reader.meta()["epoch"] == "2"
    assert _revision(config.place) == tables.REVISION


async def test_a_ledger_that_the_first_version_made_is_adopted(file_config: LedgerConfig) -> None:
    """The file as that version's own statements made it, byte for byte the schema of its day."""
    file_config.folder.mkdir()
    with contextlib.closing(sqlite3.connect(file_config.path)) as old:
        old.executescript((Path(__file__).parent / "ledger_0.sql").read_text())
    ledger = await reopen(file_config)
    books, waiting = await ledger.books(), await ledger.unfinished()
    await ledger.close()

    assert books.positions == {"BTC/USDT": make_fill(1, make_intent(1)).qty - make_fill(1, make_intent(1)).fee}
    assert [record.intent.client_id for record in waiting] == [make_intent(2).client_id]
    fresh = Place(path=file_config.folder / "fresh.db")
    engine = engine_of(fresh)
    with engine.connect() as connection, connection.begin():
        migrate(connection, fresh)
    engine.dispose()
    assert _schema(file_config.place) == _schema(fresh)


async def test_a_newer_ledger_is_refused(config: LedgerConfig) -> None:
    """One line, 78, and not a row of it is changed."""
    one = await reopen(config)
    await one.close()
    engine = engine_of(config.place)
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(ConfigError, match=r"has schema 9999, this version knows 0001; run the version") as caught:
        await reopen(config)

    assert caught.value.exit_code == 78
    assert len(str(caught.value).splitlines()) == 1
    with LedgerReader(config.place) as reader:
        assert reader.meta()["epoch"] == "1"


async def test_a_ledger_whose_number_is_higher_is_refused(config: LedgerConfig) -> None:
    """The number that versions without revisions go by is honoured too."""
    one = await reopen(config)
    await one.close()
    engine = engine_of(config.place)
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE meta SET value = '99' WHERE key = 'schema'")
    engine.dispose()
    with pytest.raises(ConfigError, match="schema 99"):
        await reopen(config)


def test_a_migration_that_dies_has_changed_nothing(config: LedgerConfig) -> None:
    """Everything happens in one transaction: before its end another connection sees no table."""
    config.folder.mkdir()
    engine = engine_of(config.place)
    with engine.connect() as connection:
        with connection.begin() as dying:
            assert migrate(connection, config.place) is True
            dying.rollback()
        with connection.begin():
            assert migrate(connection, config.place) is True
    engine.dispose()


def test_the_wheel_holds_the_revisions(shipped: frozenset[str]) -> None:
    """An installation without the repository can migrate."""
    wanted = {path.relative_to(REPO).as_posix() for path in SCRIPTS.rglob("*.py")}

    assert len(wanted) >= 4
    assert wanted <= shipped


def _forget(place: Place) -> None:
    engine = engine_of(place)
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("DROP TABLE alembic_version")
    engine.dispose()


def _revision(place: Place) -> object:
    engine = engine_of(place)
    with engine.connect() as connection, connection.begin():
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    engine.dispose()
    return found


def _schema(place: Place) -> dict[str, str]:
    """Return the statements that would make the tables of a file, without their white space."""
    assert place.path is not None
    with contextlib.closing(sqlite3.connect(place.path)) as connection:
        found = connection.execute("select name, sql from sqlite_master where sql is not null").fetchall()
    return {name: "".join(sql.split()) for name, sql in found}
