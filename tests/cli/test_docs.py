"""The documents say what the code does: every key, command and metric is there, and no other."""

import re
from pathlib import Path

from pydantic import BaseModel

from daemon.cli.main import app
from daemon.outlets.metrics import Metrics, MetricsCollector
from daemon.settings import Settings

REPO = Path(__file__).resolve().parents[2]
SECRETS = {"api_key", "api_secret"}


def code_words(name: str) -> set[str]:
    """What stands in backticks at the beginning of a table's row."""
    rows = [
        line for line in (REPO / "docs" / name).read_text().split("\n## HTTP")[0].splitlines() if line.startswith("| `")
    ]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_key_is_documented() -> None:
    """docs/configuration.md lists the schema's keys."""
    text = (REPO / "docs/configuration.md").read_text()
    documented = {
        section: set(re.findall(r"^\| `(\w+)`", body, re.MULTILINE))
        for section, body in re.findall(r"^## \[?([\w ]+)\]?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    }
    top: set[str] = set()
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert documented[name] == set(field.annotation.model_fields) - SECRETS, name
        else:
            top.add(name)

    assert documented["Top level"] == top


def test_every_metric_is_documented() -> None:
    """docs/metrics.md lists what a scrape exposes."""
    families = MetricsCollector(Metrics(("A/B",), version="", mode="paper")).collect()
    exposed = {
        family.name.removeprefix("ballast_") + ("_total" if family.type == "counter" else "") for family in families
    }
    documented = {word for word in code_words("metrics.md") if "/" not in word and " " not in word}

    assert exposed == documented


def test_every_command_is_documented() -> None:
    """docs/commands.md lists the commands, and no command that does not exist."""
    commands = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    commands |= {f"{group.name} {one.name or one.callback.__name__}" for group in app.registered_groups
                 if group.typer_instance for one in group.typer_instance.registered_commands if one.callback}  # fmt: skip
    documented = {
        re.match(r"((models|data) )?[\w-]+", word).group()  # type: ignore[union-attr]
        for word in code_words("commands.md")
        if re.match(r"[a-z]", word)
    }

    assert commands == documented
