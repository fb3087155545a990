"""The table of the fault matrix: for the terminal, for docs/faults.md, as JSON."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.kit import REPO
from tests.faults.harness import Finding, load

Proof = dict[str, object]
"""What came of a mutant: name, title, row, ok, how."""

OUT: Final = REPO / ".bench" / "faults.json"
DOCS: Final = REPO / "docs" / "faults.md"
BEGIN: Final = "<!-- table: python -m tests.faults --write-docs -->"
END: Final = "<!-- end of the table -->"


def line(one: Finding) -> str:
    """Return a row for the terminal."""
    word = "later" if one.later else "ok" if one.ok else "RED"
    recover = "" if one.recover_s is None else f"{one.recover_s:.1f} s"
    text = (
        f"{one.name:5} {word:5} fired {one.fired:4}  twice {one.duplicates}  orphans {one.orphans}"
        f"  recovered {recover:>7}  ({one.wall_s:.0f} s)  {one.title}"
    )
    return text + (f"\n      {one.detail}" if one.detail else "") + (f"\n      {one.later}" if one.later else "")


def markdown(found: Iterable[Finding]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| fault | what happens | times fired | order states hit | duplicates | orphans | seconds to recover | |",
        "|---|---|---:|---|---:|---:|---:|---|",
    ]
    for one in found:
        if one.later:
            lines.append(f"| {one.name} | {one.title} | | | | | | {one.later} |")
            continue
        recover = "" if one.recover_s is None else f"{one.recover_s:.1f}"
        lines.append(
            f"| {one.name} | {one.title} | {one.fired} | {', '.join(one.states)} | {one.duplicates} | {one.orphans} "
            f"| {recover} | {'ok' if one.ok else '**red**'} |"
        )
    return "\n".join(lines)


def merged(found: Sequence[Finding], mutants: Sequence[Proof], path: Path) -> tuple[list[Finding], list[Proof]]:
    """Return what an earlier run found, with these rows and mutants instead of its own; in the catalogue's order."""
    old = json.loads(path.read_text()) if path.exists() else {"rows": [], "mutants": []}
    rows = {one["name"]: Finding(**one) for one in old["rows"]} | {one.name: one for one in found}
    proofs = {one["name"]: one for one in old["mutants"]} | {one["name"]: one for one in mutants}
    order = [name for name in load() if name in rows]
    return [rows[name] for name in order], list(proofs.values())


def write(found: Sequence[Finding], mutants: Sequence[Proof], path: Path = OUT) -> None:
    """Write JSON, and the Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"rows": [one.tree() for one in found], "mutants": list(mutants), "load": os.getloadavg()[2]}
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(found) + "\n")


def write_docs(found: Sequence[Finding], mutants: Sequence[Proof], path: Path = DOCS) -> None:
    """Replace the table of the docs page."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert rest, f"{path} has no line {BEGIN}"
    planted = ["| planted fault of ours | row | noticed |", "|---|---|---|"]
    planted += [f"| {one['title']} | {one['row']} | {'yes' if one['ok'] else '**no**'} |" for one in mutants]
    parts = [markdown(found)] + (["\n".join(planted)] if mutants else [])
    path.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")
