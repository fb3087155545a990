"""Faults inside the daemon's process, by `tests.faults.launch`; each is in force while the file ``$FAULT_FLAG`` exists."""

import ctypes
import errno
import os
import platform
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Final

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


# ---------------------------------------------------------------- the kernel says no

SYSCALLS: Final = {"x86_64": (74, 75, 317), "aarch64": (82, 83, 277)}
"""Numbers of fsync, fdatasync and seccomp."""
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, EIO = 0x7FFF0000, 0x00050000 | errno.EIO
PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER, ALL_THREADS = 38, 1, 1


class Program(ctypes.Structure):
    """A seccomp filter: its length and where it lies."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def refuse_fsync() -> None:
    """Let fsync and fdatasync fail with EIO in every thread of this process; this cannot be undone."""
    fsync, fdatasync, seccomp = SYSCALLS[platform.machine()]
    steps = (
        (LOAD, 0, 0, 0),
        (EQUAL, 2, 0, fsync),
        (EQUAL, 1, 0, fdatasync),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, EIO),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.syscall(seccomp, SET_MODE_FILTER, ALL_THREADS, ctypes.byref(program)) == 0, ctypes.get_errno()


def no_fsync() -> None:
    """Break fsync once the flag is raised, from a thread of its own."""

    def watch() -> None:
        while not raised():
            time.sleep(0.02)
        refuse_fsync()
        fired("no_fsync")

    threading.Thread(target=watch, daemon=True).start()
