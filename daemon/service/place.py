"""Where the configured ledger lies, for whoever opens it: the daemon to write, commands to read."""

from daemon.edge.database import Place, place_of
from daemon.settings import Settings, ledger_password


def ledger_place(settings: Settings) -> Place:
    """Return the ledger's place. Raises ConfigError when the URL or the password's file cannot be read."""
    return place_of(
        settings.ledger.url, folder=settings.mode_path, mode=settings.mode, password=ledger_password(settings)
    )
