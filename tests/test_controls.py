"""docs/controls.md says the truth: what it names exists, and every refusal leaves what it promises."""

import ast
import re
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from daemon.core.causes import REPEATED
from daemon.domain.events import Alert, Recorded, Submit
from daemon.domain.orders import Check, Intent, OrderState, OrderUpdate, Refused
from daemon.edge import tables
from daemon.edge.clock import Clock
from daemon.edge.ledger import LedgerConfig, SqlLedger
from daemon.edge.ledger_read import LedgerReader
from daemon.outlets.meters import STOPPED_BY, Metrics
from daemon.settings import json_schema
from tests.core.driver import make_intent

REPO = Path(__file__).resolve().parent.parent
DOC = REPO / "docs" / "controls.md"
CONTROLS = [*(f"P{n}" for n in range(1, 19)), *(f"A{n}" for n in range(1, 8)), "T1", "T2", "T3", "T4", "T6"]
COLUMNS = 5
BY_COUNT = frozenset({Check.P7_REPEATED, Check.P11_MODEL})
"""Refusals of decisions and of parts of them: no intent exists yet."""
AT_THE_SOCKET = frozenset({Check.A1_KILL, Check.A5_RATE_BUDGET, Check.NOT_SENT})
T = 1_700_000_000_000_000_000


@cache
def rows() -> dict[str, list[str]]:
    """Return the cells of each control's row by its name."""
    found: dict[str, list[str]] = {}
    for line in DOC.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) == COLUMNS and re.fullmatch(r"[PAT]\d+", cells[0].partition(" ")[0]):
            name = cells[0].partition(" ")[0]
            assert name not in found, f"{name} has two rows"
            found[name] = cells
    return found


def quoted(cell: str) -> list[str]:
    """Return what stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the functions, classes and assigned names of a file, nested ones too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((REPO / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {one.id for one in node.targets if isinstance(one, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return frozenset(found)


@cache
def keys() -> frozenset[str]:
    """Return every configuration key with its table."""
    schema = json_schema()
    found: set[str] = set()
    for name, entry in schema["properties"].items():
        part = schema["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry
        found.add(name)
        found |= {f"{name}.{key}" for key in part.get("properties", {})}
    return frozenset(found)


def test_every_control_has_a_row() -> None:
    """P1 to P18, A1 to A7, T1 to T4 and T6, in this order and nothing else."""
    assert list(rows()) == CONTROLS


@pytest.mark.parametrize("name", CONTROLS)
def test_what_a_row_names_exists(name: str) -> None:
    """Code, tests and configuration keys; a control without a key says that it is fixed or off."""
    _, what, code, tests, configuration = rows()[name]
    places = [place.partition(":")[::2] for place in quoted(code)]
    ids = [one.partition("::")[::2] for one in quoted(tests)]
    named = quoted(configuration)

    assert what
    assert places
    assert ids
    assert [path for path, _ in places if not (REPO / path).is_file()] == []
    assert [f"{path}:{symbol}" for path, symbol in places if symbol and symbol not in names_in(path)] == []
    assert [path for path, _ in ids if not (REPO / path).is_file()] == []
    assert [f"{path}::{test}" for path, test in ids if test not in names_in(path) or not test.startswith("test_")] == []
    assert [key for key in named if key not in keys()] == []
    assert named or configuration.startswith(("fixed", "off"))


def test_every_check_is_named() -> None:
    """The list of labels of ``risk_denied_total`` is the code's."""
    text = DOC.read_text()
    named = set(quoted(text[text.index("The checks of `risk_denied_total`") : text.index("## Before the order")]))

    assert {check.value for check in Check} == named - {"risk_denied_total"}


def test_every_check_can_happen() -> None:
    """No check is a dead word: the gate refuses with it, or something counts it."""
    gate = (REPO / "risk" / "gate.py").read_text()
    made = {check for check in Check if f"Check.{check.name}" in gate}

    assert set(Check) - made == AT_THE_SOCKET | BY_COUNT
    assert AT_THE_SOCKET | {Check.P16_TOO_OLD} == {*STOPPED_BY.values(), Check.NOT_SENT}


def intent(number: int) -> Intent:
    """Return an order that wants to exist."""
    return make_intent(client_id=f"b{number:025d}", decision="bar-1-1", leg=number, ts_ns=T, expires_ns=T + 2)


async def test_every_refusal_has_a_reason_a_metric_and_a_row(tmp_path: Path) -> None:
    """T4: each check of the gate, from its typed reason to ``risk_denied_total`` and the row in ``refusals``."""
    refused = [
        Refused(intent(number), check, f"why {number}", T)
        for number, check in enumerate(sorted(set(Check) - AT_THE_SOCKET - BY_COUNT))
    ]
    submit = Submit("bar-1-1", (), tuple(refused), "{}")
    config = LedgerConfig(
        folder=tmp_path / "live",
        instance="test",
        mode="live",
        venue="binance",
        quote="USDT",
        account="k",
        lock_folder=tmp_path,
    )
    ledger = SqlLedger(config, clock=Clock())
    await ledger.open()
    try:
        assert await ledger.commit(submit)
    finally:
        await ledger.close()
    metrics = Metrics(("BTC/USDT",), version="1", mode="live")
    metrics.observe_effect(submit)
    with LedgerReader(config.folder / "ballast.db") as reader:
        written = reader.rows_of(tables.refusals, "decision", ["bar-1-1"])

    assert {(row["client_id"], row["reason"], row["detail"], row["qty"]) for row in written} == {
        (one.intent.client_id, one.check.value, one.detail, one.intent.qty) for one in refused
    }
    assert metrics.denied == {(one.check.value,): 1 for one in refused}


@pytest.mark.parametrize("code", [*STOPPED_BY, "the daemon is stopping"])
def test_what_does_not_leave_is_counted(code: str) -> None:
    """A refusal in the last instant counts under its control, whatever its words."""
    metrics = Metrics(("BTC/USDT",), version="1", mode="live")
    news = OrderUpdate("b1", "BTC/USDT", OrderState.DENIED, "", Decimal(0), code, "send", T)
    metrics.observe_effect(Recorded(news))

    assert metrics.denied == {(STOPPED_BY.get(code, Check.NOT_SENT).value,): 1}


def test_p7_counts_under_its_name() -> None:
    """The alert that stops decisions is the refusal of P7."""
    metrics = Metrics(("BTC/USDT",), version="1", mode="live")
    metrics.observe_effect(Alert(REPEATED, "", "BTC/USDT", T))

    assert metrics.denied == {(Check.P7_REPEATED.value,): 1}
