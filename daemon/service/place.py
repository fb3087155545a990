"""Where the configured ledger lies, for whoever opens it: the daemon to write, commands to read."""

from sqlalchemy import func, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from daemon.domain.errors import ConfigError
from daemon.edge.database import Place, brief, engine_of, place_of
from daemon.settings import Settings, ledger_password


def ledger_place(settings: Settings) -> Place:
    """Return the ledger's place. Raises ConfigError when the URL or the password's file cannot be read."""
    return place_of(
        settings.ledger.url, folder=settings.mode_path, mode=settings.mode, password=ledger_password(settings)
    )


def ledger_problems(settings: Settings) -> list[str]:
    """Return what would keep a start from its ledger's server, one line each; nothing is changed there."""
    place = ledger_place(settings)
    if place.path is not None:
        return []
    from daemon.edge.postgres import verify  # noqa: PLC0415 (the driver is loaded where it is needed)

    engine = engine_of(place, read_only=True, owner="ballast check")
    try:
        with engine.connect() as connection:
            verify(connection, place)
            may = connection.scalar(select(func.has_database_privilege(func.current_database(), "CREATE")))
            if not may and not inspect(connection).has_schema(place.schema):
                return [
                    f"ledger {place}: this role may not make the schema; GRANT CREATE ON DATABASE to it, or make it"
                ]
    except SQLAlchemyError as error:
        return [f"ledger {place}: {brief(error)}; check ledger.url and the server"]
    except ConfigError as error:
        return [str(error)]
    finally:
        engine.dispose()
    return []
