"""Faults inside the daemon's process, by `tests.faults.launch`; each is in force while the file ``$FAULT_FLAG`` exists."""

import os
import socket
from pathlib import Path
from typing import Any

from tests.faults.launch import fired


def raised() -> bool:
    """Say whether the flag is raised."""
    return Path(os.environ["FAULT_FLAG"]).exists()


def no_names() -> None:
    """Let no name be resolved while the flag is raised."""
    resolve = socket.getaddrinfo

    def failing(host: Any, *arguments: Any, **options: Any) -> Any:
        if raised():
            fired("no_names")
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *arguments, **options)

    socket.getaddrinfo = failing


def trust() -> None:
    """Trust one authority of the test's own instead of the public ones."""
    import certifi

    fired("trust")
    certifi.where = lambda: os.environ["FAULT_CA"]
