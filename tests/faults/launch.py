"""Start the daemon with patches: ``python -m tests.faults.launch module:function[,module:function] run -c FILE``.

Each function is called without arguments before the daemon starts and changes what it needs to. Only the daemon's own
process is patched: its worker and watchdog are processes of their own and stay as they are.
"""

import importlib
import os
import sys

FIRED = "fault fired: "


def fired(name: str) -> None:
    """Say on standard error that a planted fault happened, in one write; `Trial.patch` counts these lines."""
    os.write(2, f"{FIRED}{name}\n".encode())


def main() -> None:
    """Apply the patches named first, then be ``ballast`` with the other arguments."""
    for target in sys.argv[1].split(","):
        module, _, function = target.partition(":")
        getattr(importlib.import_module(module), function)()
    from daemon.cli.main import guard_crashes, run

    guard_crashes()
    sys.exit(run(sys.argv[2:]))


if __name__ == "__main__":
    main()
