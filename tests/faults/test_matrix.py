"""The fault matrix itself: every number has a row, a row that proves nothing is red; a sample of it runs here."""

import sys
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.__main__ import main
from tests.faults.harness import LATER_MAX, NUMBERS, Finding, Row, Trial, campaign, later, load, missing, perform
from tests.faults.mutants import MUTANTS, chosen, prove

AT_ONCE = 2
SAMPLE = ("F3", "F31", "F57")
"""A lost answer, a restart, a kill: about half a minute together."""


def test_every_fault_of_the_catalogue_has_a_row() -> None:
    """F1–F72; only F59–F66 may wait for a later issue."""
    rows = load()

    assert missing() == []
    assert len(NUMBERS) == 72
    assert {one.number for one in rows.values() if one.later} <= {f"F{number}" for number in LATER_MAX}
    assert all(one.title and one.expect for one in rows.values())
    with pytest.raises(AssertionError, match="F1 must be injected"):
        later("F1", "x", expect="y", issue="issue 9")


def test_a_row_that_injects_nothing_is_red() -> None:
    """A fault that never fires proves nothing, whatever the row asserts."""
    idle = perform(Row("F1", "F1", "nothing happens", "nothing", lambda _trial: None))

    assert (idle.ok, idle.fired) == (False, 0)
    assert "not injected" in idle.detail


def test_a_row_that_finds_something_is_red_and_the_others_follow() -> None:
    """An assertion makes a row red, any other exception too; told faults count."""

    def wrong(trial: Trial) -> None:
        trial.fire(3)
        raise ValueError("two orders")

    found = campaign(
        [Row("F1", "F1", "a", "b", wrong), Row("F2", "F2", "a", "b", lambda trial: trial.fire(2))], at_once=AT_ONCE
    )

    assert [(one.name, one.ok, one.fired) for one in found] == [("F1", False, 3), ("F2", True, 2)]
    assert "two orders" in found[0].detail


def test_there_are_five_mutants_and_each_has_its_row() -> None:
    """The five planted faults, each with a row that exists and a reason."""
    rows = load()

    assert len(MUTANTS) == 5
    assert all(one.row in rows and one.says for one in MUTANTS)


def test_a_row_that_does_not_exist_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and a line that names it."""
    monkeypatch.setattr(sys, "argv", ["faults", "F99"])

    assert main() == 2
    assert "F99" in capsys.readouterr().err


def test_the_table_goes_into_the_page_between_its_marks(tmp_path: Path) -> None:
    """Everything around the table stays as it was."""
    page = tmp_path / "faults.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    one = Finding("F2", "reply lost", ok=True, fired=2, states=["sending"], recover_s=0.5)
    table.write_docs([one], [{"name": "m", "title": "a", "row": "F2", "ok": True}], page)
    text = page.read_text()

    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| F2 | reply lost | 2 | sending | 0 | 0 | 0.5 | ok |" in text


def test_rows_run_alone_replace_their_own_findings(tmp_path: Path) -> None:
    """A row that was red and is run again: the others stay, the order is the catalogue's."""
    file = tmp_path / "faults.json"
    table.write([Finding("F1", "a", ok=True), Finding("F3", "c")], [{"name": "m", "ok": False}], file)
    rows, mutants = table.merged([Finding("F3", "c", ok=True), Finding("F2", "b")], [{"name": "m", "ok": True}], file)

    assert [(one.name, one.ok) for one in rows] == [("F1", True), ("F2", False), ("F3", True)]
    assert mutants == [{"name": "m", "ok": True}]


def test_a_sample_of_the_matrix_is_green() -> None:
    """A few rows, injected into the running daemon; `make faults` takes them all."""
    rows = load()
    found = campaign([rows[name] for name in SAMPLE], at_once=AT_ONCE)

    assert [(one.name, one.detail) for one in found if not one.ok] == []
    assert sum(one.duplicates + one.orphans for one in found) == 0


def test_a_mutant_turns_its_row_red() -> None:
    """A fate that is not known, called rejected: noticed, and for that reason."""
    (mutant,) = chosen(["unknown_is_rejected"])
    proof = prove(mutant)

    assert proof["ok"], proof
