"""Bring a ledger's schema to the one this version knows, inside the caller's transaction."""

from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select
from sqlalchemy.schema import CreateSchema

from daemon.domain.errors import ConfigError
from daemon.edge import tables
from daemon.edge.database import Place

SCRIPTS: Final = Path(__file__).parent / "migrations"
FIRST: Final = "0001"
"""The revision of ledgers from before revisions were kept."""

_versions = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def migrate(connection: Connection, place: Place) -> bool:
    """Apply the revisions that are missing; false when there were none.

    A ledger without a revision that has our tables is adopted as the first one. Everything happens in the transaction
    that ``connection`` is in: a process that dies meanwhile has changed nothing.

    Raises
    ------
    ConfigError
        A newer version wrote the ledger.
    """
    here = inspect(connection)
    if place.schema and not here.has_schema(place.schema):
        connection.execute(CreateSchema(place.schema))
    known = connection.scalar(select(_versions.c.version_num)) if here.has_table(_versions.name) else None
    if known == tables.REVISION:
        return False
    from alembic import command  # noqa: PLC0415 (60 ms and 8 MB that only a start with something to do pays)
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if known is not None and known not in {
        one.revision for one in ScriptDirectory.from_config(config).walk_revisions()
    }:
        raise newer(place, f"schema {known}", tables.REVISION)
    if known is None and here.has_table(tables.meta.name):
        command.stamp(config, FIRST)
    command.upgrade(config, tables.REVISION)
    return True


def newer(place: Place, what: str, ours: str) -> ConfigError:
    """Return the error for a ledger that this version does not understand."""
    return ConfigError(
        f"ledger {place} has {what}, this version knows {ours}; run the version that wrote it or a newer one"
    )
