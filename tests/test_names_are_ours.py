"""The generic package names belong to this repository, in this environment and in the wheel."""

import re
import tomllib
from importlib import import_module
from importlib.metadata import distribution, distributions, entry_points, packages_distributions
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
NAMES = ("daemon", "strategies", "risk")


@pytest.mark.parametrize("name", NAMES)
def test_no_dependency_owns_our_name(name: str) -> None:
    """Distributions such as python-daemon install a top-level `daemon`; none may be in this environment."""
    owners = set(packages_distributions().get(name, []))
    files = {
        dist.name
        for dist in distributions()
        for file in dist.files or []
        if file.parts[0] in {name, f"{name}.py"} and dist.name != "ballast"
    }

    assert owners <= {"ballast"}
    assert files == set()


@pytest.mark.parametrize("name", NAMES)
def test_import_finds_this_repository(name: str) -> None:
    """`import daemon` is ours, and typed."""
    module = import_module(name)

    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == REPO / name / "__init__.py"
    assert (REPO / name / "py.typed").is_file()


def test_people_meet_only_the_name_ballast() -> None:
    """The one console command of the distribution is `ballast`, and the metadata keep it off public indexes."""
    commands = {entry.name: entry.value for entry in distribution("ballast").entry_points}
    ours = [entry.name for entry in entry_points(group="console_scripts") if entry.value.split(".")[0] in NAMES]

    assert commands == {"ballast": "daemon.__main__:main"}
    assert ours == ["ballast"]
    assert "Private :: Do Not Upload" in distribution("ballast").metadata.get_all("Classifier", [])


def test_wheel_holds_the_three_packages_only(shipped: frozenset[str]) -> None:
    """What is shipped is daemon, strategies and risk: no tests, no configuration, no benchmarks."""
    roots = {name.split("/")[0] for name in shipped}

    assert {root for root in roots if not root.endswith(".dist-info")} == set(NAMES)


@pytest.mark.parametrize("folder", ["config", "deploy", "tests", "docs"])
def test_other_folders_are_not_packages(folder: str) -> None:
    """The editable install puts the repository on the path; what is no package must not look like one."""
    assert list((REPO / folder).rglob("__init__.py")) == []


def test_every_dependency_is_locked() -> None:
    """The lock names every dependency of pyproject.toml, exactly once, with an exact version."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    locked = [_normal(pin.split("==")[0]) for pin in pins]
    wanted = [*project["dependencies"], *_extra(project["optional-dependencies"], "dev")]

    assert [pin for pin in pins if pin.count("==") != 1] == []
    assert len(locked) == len(set(locked))
    assert [name for name in map(_requirement_name, wanted) if name not in locked] == []
    assert "torch==2.13.0" in pins


def _extra(extras: dict[str, list[str]], name: str) -> list[str]:
    """Return what an extra asks for, with that of the extras of ours that it names."""
    found: list[str] = []
    for one in extras[name]:
        ours = re.match(r"ballast\[([a-z]+)\]", one)
        found += _extra(extras, ours[1]) if ours else [one]
    return found


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _requirement_name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return _normal(found.group())
