"""Run seeds: one to look at, or many for the night (``make soak``)."""

import argparse
import sys

from tests.sim.run import simulate
from tests.sim.soak import soak, tell


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone and print what happened")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--minutes", type=float, default=10.0, help="virtual minutes with faults, per seed")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0: one per core")
    parser.add_argument("--only", default="", help="names of faults, separated by commas")
    parser.add_argument("--no-faults", action="store_true", help="let nothing go wrong")
    parser.add_argument("--log", action="store_true", help="print the daemon's warnings too")
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for; 0 when every invariant held."""
    options = arguments()
    if options.seed is None:
        return 1 if soak(options) else 0
    only = tuple(filter(None, options.only.split(",")))
    outcome = simulate(options.seed, options.minutes, faults=not options.no_faults, only=only, log=options.log)
    tell(outcome)
    print(f"  {outcome.plan}")
    for name, count in sorted({**outcome.fired, **outcome.notes}.items()):
        print(f"  {name}: {count}")
    return 1 if outcome.found else 0


if __name__ == "__main__":
    sys.exit(main())
