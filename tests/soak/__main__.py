"""The long tests, one after another (``make soak``): each part is a command of its own and may be chosen alone.

A summary goes to the screen and into ``.bench/soak.json``; exit 1 when a part failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from tests.e2e.kit import REPO

OUT = REPO / ".bench" / "soak.json"
PARTS = ("stateful", "sim", "load", "fuzz", "crash")


def commands(options: argparse.Namespace) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return every part's command line and what it adds to the environment."""
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    sim = ["-m", "tests.sim", "--seeds", options.seeds, "--first", options.first, "--minutes", options.minutes]
    fuzz = [*pytest, "tests/security", "-k", "fuzz"]
    return {
        "stateful": ([*pytest, "tests/stateful"], {"STATEFUL_EXAMPLES": options.examples}),
        "sim": ([*sim, "--jobs", options.jobs], {}),
        "load": (["-m", "tests.soak.load", "--minutes", options.load_minutes], {}),
        **{f"fuzz {round_}": ([*fuzz, f"--hypothesis-seed={round_}"], {}) for round_ in range(1, options.fuzz + 1)},
        "crash": (["-m", "tests.crash"], {}),
    }


def main() -> int:
    """Run the chosen parts; 0 when all of them passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--parts", default=" ".join(PARTS), help=f"some of: {' '.join(PARTS)}")
    parser.add_argument("--seeds", default="200", help="seeds of the simulation; a night's are 2000")
    parser.add_argument("--first", default="1", help="the first of them")
    parser.add_argument("--minutes", default="10", help="virtual minutes per seed")
    parser.add_argument("--jobs", default="0", help="processes of the simulation; 0: one per core")
    parser.add_argument("--examples", default="5000", help="runs of the state machine")
    parser.add_argument("--load-minutes", default="10", help="minutes under twice the recorded peak")
    parser.add_argument("--fuzz", type=int, default=3, help="rounds of the decoders' fuzz, each with its own seed")
    options = parser.parse_args()
    chosen = options.parts.replace(",", " ").split()
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown or not chosen:
        parser.error(
            f"--parts {options.parts}: {', '.join(unknown) or 'nothing'} is no part; there are {', '.join(PARTS)}"
        )
    results: list[dict[str, Any]] = []
    for name, (command, more) in commands(options).items():
        if name.split()[0] not in chosen:
            continue
        line = " ".join([*(f"{key}={value}" for key, value in more.items()), ".venv/bin/python", *command])
        print(f"--- {name}: {line}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, *command], cwd=REPO, env=os.environ | more, check=False).returncode
        results.append({"part": name, "seconds": round(time.monotonic() - began), "exit": code, "again": line})
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(results, indent=1))
    print(f"{'part':10} {'minutes':>8}  result")
    for one in results:
        print(f"{one['part']:10} {one['seconds'] / 60:8.1f}  {'passed' if not one['exit'] else 'FAILED'}")
        if one["exit"]:
            print(f"  again: {one['again']}")
    return 1 if any(one["exit"] for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
