"""The fault matrix: every fault of FAULTS section 4 injected into the running daemon, each row judged and counted.

Exit code 0 when every number has a row, every row is green and every planted mutant turned its row red; 3 otherwise;
2 for a row that does not exist.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.harness import Finding, campaign, load, missing
from tests.faults.mutants import chosen, prove
from tests.faults.table import OUT, Proof, line, merged, write, write_docs

AT_ONCE = 2


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run (F2, F16b, …); none: all, and the mutants")
    parser.add_argument(
        "--mutants",
        nargs="*",
        metavar="NAME",
        help="prove the planted mutants (or those named) besides the rows named, if any",
    )
    parser.add_argument("--no-mutants", action="store_true", help="leave them out")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="rows at the same time")
    parser.add_argument(
        "--json", type=Path, default=OUT, metavar="FILE", help="where the findings go; rows run alone replace their own"
    )
    parser.add_argument("--write-docs", action="store_true", help="renew the table in docs/faults.md")
    parser.add_argument("--keep", action="store_true", help="keep the folders of red rows")
    parser.add_argument("--list", action="store_true", help="list the rows and run none")
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    options = arguments()
    there = load()
    if options.list:
        for one in there.values():
            print(f"{one.name:5} {one.title}: {one.expect}")
        print(*(f"mutant {one.name}: {one.title}, by {one.row}" for one in chosen(())), sep="\n")
        return 0
    unknown = [name for name in options.rows if name not in there]
    unknown += [name for name in options.mutants or () if not chosen([name])]
    if unknown:
        print(f"faults: there is no row or mutant {', '.join(unknown)}; --list shows them", file=sys.stderr)
        return 2
    began = time.monotonic()
    rows = [there[name] for name in options.rows]
    mutating = options.mutants is not None
    whole = not options.rows and not mutating
    if whole:
        rows = list(there.values())
    if whole:
        options.json.unlink(missing_ok=True)

    def tell(one: Finding) -> None:
        print(line(one), flush=True)
        write(*merged([one], [], options.json), options.json)  # a run that is cut short has written what it saw

    found = campaign(rows, at_once=options.at_once, keep=options.keep, tell=tell)
    proofs: list[Proof] = []
    if not options.no_mutants and (whole or mutating):
        print("\nplanted faults of ours, each must turn a row red:", flush=True)
        with ThreadPoolExecutor(options.at_once) as pool:
            for proof in pool.map(prove, chosen(options.mutants or ())):
                proofs.append(proof)
                word = "noticed" if proof["ok"] else "NOT NOTICED"
                print(f"{word:12} {proof['title']} by {proof['row']}: {proof['how']}", flush=True)
    absent = missing() if whole else []
    red = [one.name for one in found if not one.ok]
    blind = [str(proof["name"]) for proof in proofs if not proof["ok"]]
    everything = merged(found, proofs, options.json)
    write(*everything, options.json)
    if options.write_docs:
        write_docs(*everything)
    counted = [one for one in found if not one.later]
    twice, lost = sum(one.duplicates for one in found), sum(one.orphans for one in found)
    print(
        f"\n{len(counted)} rows, {sum(one.fired for one in found)} faults fired, {twice} duplicates, {lost} orphans, "
        f"{len(red)} red, {len(found) - len(counted)} for a later issue, {time.monotonic() - began:.0f} s"
    )
    for text, names in (("red", red), ("without a row", absent), ("mutants not noticed", blind)):
        if names:
            print(f"{text}: {', '.join(names)}")
    return 3 if red or absent or blind else 0


if __name__ == "__main__":
    sys.exit(main())
