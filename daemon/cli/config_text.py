"""The commented configuration that ``ballast init`` writes, made from the schema: every key, its default, what it means."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from daemon.settings import Settings

WIDTH: Final = 120
COLUMN: Final = 34
"""Where comments begin when they fit beside their key."""
SECRETS: Final = frozenset({"api_key", "api_secret"})
"""Keys of the schema that no file may hold."""
COMMENTS: Final = {
    "universe": "what is traded",
    "forecast.lookback": "bars that the model reads",
    "optimizer.objective": "least risk for the return expected, costs included",
    "optimizer.covariance": "how risk is estimated",
    "optimizer.turnover_max_day": "the same, per UTC day",
    "execution.max_slippage_bps": "how far from the touch an order may be filled",
    "risk.max_weight": "largest share of equity in one asset",
    "risk.min_cash": "least share of equity in cash",
    "risk.trailing_stop": "per position, from its highest price",
    "paper.cash": "quote currency to begin with",
    "paper.fee_bps": "per fill",
    "paper.latency_ms": "from the decision to the exchange",
    "api.listen": "where the API and the command line meet",
    "metrics.listen": "where Prometheus asks",
    "mqtt.password_file": "file holding the broker's password",
    "mqtt.command_key_file": "file holding the key that signs commands",
    "log.level": "the least that is written",
}
"""What the schema does not say of itself, in one place: key → comment."""
HEADING: Final = """\
# Ballast's configuration: every key with its default; a line left out means the same as the line as it stands.
# A variable overrides a key: BALLAST_RISK__MAX_WEIGHT=0.2. Durations are written 90s, 30m, 24h or 7d; shares of equity
# are fractions; bps are hundredths of a percent. Secrets never live here: use the *_file keys or the environment.
"""
PARAMETERS: Final = """\
# lookback = 48                   # what my_strategy.py knows: bars of its average
"""


def config_text(changes: Mapping[str, str]) -> str:
    """Return the configuration as TOML; ``changes`` replaces top-level keys, everything else is the default."""
    defaults = Settings.model_validate({}).model_dump()
    top, tables = [HEADING], []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            tables.append(_table(name, kind, defaults[name]))
        elif isinstance(defaults[name], dict):
            tables.append(f"\n# {_sentence(field.description or '')}\n[{name}]\n{PARAMETERS}")
        else:
            top.extend(_lines(name, name, changes.get(name, defaults[name]), field))
    return "".join((*top, *tables))


def _table(section: str, kind: type[BaseModel], defaults: Mapping[str, Any]) -> str:
    lines = [f"\n# {(kind.__doc__ or '').strip()}\n[{section}]\n"]
    for name, field in kind.model_fields.items():
        if name not in SECRETS:
            lines.extend(_lines(f"{section}.{name}", name, defaults[name], field))
    return "".join(lines)


def _lines(path: str, name: str, value: object, field: FieldInfo) -> Iterator[str]:
    """Yield ``key = value  # comment``; a comment too long for that goes above, wrapped."""
    written = f"{name} = {_toml(value)}"
    comment = field.description or COMMENTS[path]
    if get_origin(field.annotation) is Literal:
        comment = f"{' | '.join(get_args(field.annotation))}; {comment}"
    beside = f"{f'{written}  '.ljust(COLUMN)}# {comment}"
    if len(beside) <= WIDTH:
        yield f"{beside}\n"
    else:
        yield textwrap.fill(comment, WIDTH, initial_indent="# ", subsequent_indent="# ") + f"\n{written}\n"


def _toml(value: object) -> str:
    """Return a default as TOML: text as a basic string (JSON's escapes are TOML's, but for DEL), numbers as they are."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
