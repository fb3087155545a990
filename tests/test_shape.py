"""The shape of the code: sizes, the pure folders, and the doors that exist once."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("daemon", "strategies", "risk")
PURE = ("daemon/domain/", "daemon/wire/", "daemon/core/", "daemon/matching/", "strategies/", "risk/")
OFFLINE = "strategies/training/"  # may do file I/O, may be slow, may read a clock
ASYNC_DOORS = ("daemon/core/run.py", "daemon/domain/ports.py")  # the async runner, and the ports it awaits
DECIMAL_DOORS = (
    "daemon/core/state.py",
    "daemon/core/account.py",  # the books of the state; `exact` is their one door
    "daemon/core/planner.py",
    "daemon/domain/",
    "daemon/matching/",
    "daemon/wire/",
    "risk/",
)
GATE = "risk/gate.py"
CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}

LINES_MAX = 400
FUNCTION_LINES_MAX = 70


def _sources() -> list[str]:
    """Paths of our modules, relative to the repository, in POSIX form."""
    return sorted(path.relative_to(REPO).as_posix() for name in PACKAGES for path in (REPO / name).rglob("*.py"))


SOURCES = _sources()
PURE_SOURCES = [name for name in SOURCES if name.startswith(PURE) and not name.startswith(OFFLINE)]


def _tree(name: str) -> ast.Module:
    return ast.parse((REPO / name).read_text(encoding="utf-8"), filename=name)


def _calls(name: str, function: str) -> Iterator[tuple[str, ast.Call]]:
    """Places in file `name` that call `function`, bare or as an attribute of anything, and the calls."""
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Call):
            called = node.func
            bare = called.id if isinstance(called, ast.Name) else None
            dotted = called.attr if isinstance(called, ast.Attribute) else None
            if function in {bare, dotted}:
                yield f"{name}:{node.lineno}", node


def _is_literal(call: ast.Call) -> bool:
    return all(isinstance(argument, ast.Constant) and not isinstance(argument.value, float) for argument in call.args)


def test_the_three_packages_are_there() -> None:
    """The searches below look at something."""
    assert {name.split("/")[0] for name in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("name", SOURCES)
def test_sizes(name: str) -> None:
    """Files stay within 400 lines and functions within 70, decorators and docstring included."""
    lines = len((REPO / name).read_text(encoding="utf-8").splitlines())
    functions = [node for node in ast.walk(_tree(name)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [
        f"{name}:{node.lineno} {node.name} has {size} lines"
        for node in functions
        if (size := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert lines <= LINES_MAX, f"{name} has {lines} lines"
    assert long == []


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith("/__init__.py")])
def test_package_files_are_a_docstring(name: str) -> None:
    """`__init__.py` says what the package is and does nothing."""
    tree = _tree(name)

    assert ast.get_docstring(tree), f"{name} has no docstring"
    assert len(tree.body) == 1, f"{name} holds more than its docstring"


@pytest.mark.parametrize("name", PURE_SOURCES)
def test_pure_folders_never_await(name: str) -> None:
    """Only what can block is async; pure code cannot."""
    coroutines = [
        f"{name}:{node.lineno} {node.name}" for node in ast.walk(_tree(name)) if isinstance(node, ast.AsyncFunctionDef)
    ]

    assert coroutines == [] or name in ASYNC_DOORS


def test_only_the_gate_approves() -> None:
    """`Approved(...)` is built in the risk gate and nowhere else, so no order passes beside it."""
    places = [place for name in SOURCES if name != GATE for place, _ in _calls(name, "Approved")]

    assert places == []


@pytest.mark.parametrize("name", [name for name in PURE_SOURCES if not name.startswith(DECIMAL_DOORS)])
def test_decimals_are_made_at_the_doors(name: str) -> None:
    """Ratios become money at the doors above; elsewhere in pure code only constants are written as Decimal."""
    assert [place for place, call in _calls(name, "Decimal") if not _is_literal(call)] == []


@pytest.mark.parametrize("name", ["daemon/app.py", "daemon/settings.py"])
def test_files_with_lint_exemptions_read_no_clock(name: str) -> None:
    """Two files are free of ruff's ban list for another reason; the ban on clocks holds for them all the same."""
    reads = [
        f"{name}:{node.lineno} {node.value.id}.{node.attr}"
        for node in ast.walk(_tree(name))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr in CLOCKS.get(node.value.id, set())
    ]

    assert reads == []


@pytest.mark.parametrize("name", SOURCES)
def test_queues_have_a_bound(name: str) -> None:
    """Every queue states its size; 0, the word for unbounded, counts as none."""
    unbounded = [
        f"{name}:{node.lineno}"
        for node in ast.walk(_tree(name))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute | ast.Name)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
        in {"Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"}
        and not _has_bound(node)
    ]

    assert unbounded == []


def test_every_test_says_what_it_states() -> None:
    """Each test function opens with a one-line docstring."""
    silent = [
        f"{path.relative_to(REPO).as_posix()}:{node.lineno} {node.name}"
        for path in sorted((REPO / "tests").rglob("test_*.py"))
        for node in ast.walk(_tree(path.relative_to(REPO).as_posix()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


def _has_bound(call: ast.Call) -> bool:
    sizes = [*call.args[:1], *(word.value for word in call.keywords if word.arg == "maxsize")]
    return any(not (isinstance(size, ast.Constant) and size.value == 0) for size in sizes)
