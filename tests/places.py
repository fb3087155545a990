"""Where tests put their files."""

import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM_BYTES = 1_000_000_000
"""A whole run leaves some tens of MB; containers often have no more than 64 MB in all, too few to begin there."""


def memory_folder() -> str | None:
    """Return a folder in memory, or None where the system has none or too little of it: then the disk it is."""
    return str(MEMORY) if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES else None
