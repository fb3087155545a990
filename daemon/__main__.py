"""Entry point of ``ballast`` and ``python -m daemon``."""

import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from daemon.cli.main import guard_crashes, run

    guard_crashes()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
