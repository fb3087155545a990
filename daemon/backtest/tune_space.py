"""What a study may choose from: configuration keys with ranges, read from a TOML file, and the settings a choice makes."""

import tomllib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Final

import msgspec
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from daemon.domain.errors import ConfigError
from daemon.settings import Settings
from daemon.settings_checks import contradictions
from daemon.settings_values import BOUNDS, WANTED

TUNABLE: Final = ("forecast", "optimizer", "execution", "risk", "strategy_params")
"""Tables whose keys are ours to choose. What the market charges (paper, backtest) is a fact, and no choice."""
KEYS_MAX: Final = 64
CHOICES_MAX: Final = 64
BYTES_MAX: Final = 1_000_000
REFERENCE: Final = "strategies.forecast_optimise:ForecastOptimise"

Value = float | int | str | bool
Space = dict[str, BaseDistribution]


class _Range(msgspec.Struct, forbid_unknown_fields=True):
    """A range as the file has it, ends included."""

    low: float | int
    high: float | int
    log: bool = False
    step: float | int | None = None


class _Choices(msgspec.Struct, forbid_unknown_fields=True):
    """A list to choose from as the file has it."""

    choices: list[Value]


def default_space(settings: Settings) -> Space:
    """Return what is searched without a file: how often, how much and how fast; for the reference strategy also the risk."""
    space: Space = {
        "optimizer.rebalance_every": CategoricalDistribution((1, 2, 4, 8, 12, 24)),
        "optimizer.turnover_max": FloatDistribution(0.05, 0.5, log=True),
        "risk.max_weight": FloatDistribution(0.1, 0.5, step=0.05),
        "risk.trailing_stop": FloatDistribution(0.04, 0.24, step=0.04),
    }
    if settings.strategy == REFERENCE:
        space["optimizer.covariance"] = CategoricalDistribution(("sample", "ewma", "ledoit_wolf", "factor"))
        space["optimizer.risk_tolerance"] = FloatDistribution(0.03, 1.0, log=True)
    return dict(sorted(space.items()))


def read_space(path: Path, settings: Settings) -> Space:
    """Return the space of a file, keys sorted.

    Raises
    ------
    ConfigError
        The file cannot be read, or a key or range in it is impossible; one line that names it.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
        if len(raw) > BYTES_MAX:
            raise ConfigError(f"{path}: larger than {BYTES_MAX} bytes; this is no search space")
        tree = tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an existing file with --space") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML ({' '.join(str(error).split())[:200]}); correct it there") from None
    found: dict[str, Mapping[str, Any]] = {}
    try:
        _leaves(tree, (), found)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not found:
        raise ConfigError(f"{path}: nothing to search; write for example [risk.max_weight] with low = 0.1, high = 0.5")
    if len(found) > KEYS_MAX:
        raise ConfigError(f"{path}: {len(found)} keys, at most {KEYS_MAX} can be searched at once")
    space: Space = {}
    for key, entry in sorted(found.items()):
        try:
            space[key] = _distribution(key, entry, settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except ValueError as error:
            raise ConfigError(f"{path}: {key}: {error}") from None
    return space


def highest(space: Space, key: str) -> int:
    """Return the largest whole number that a key may take, 0 when it is not searched."""
    one = space.get(key)
    if isinstance(one, IntDistribution):
        return one.high
    choices = one.choices if isinstance(one, CategoricalDistribution) else ()
    return max((value for value in choices if isinstance(value, int)), default=0)


def space_text(space: Space) -> dict[str, str]:
    """Return each key's range in words, for results and for comparing studies."""
    return {key: str(one) for key, one in sorted(space.items())}


def settings_with(base: Settings, changes: Mapping[str, Value]) -> Settings:
    """Return the configuration with some keys (``risk.max_weight``) changed, validated as a file would be.

    Raises
    ------
    ConfigError
        One line: the key, the value and what is wrong, or which keys contradict each other.
    """
    made = _validated(base, changes)
    problems = contradictions(made)
    if problems:
        raise ConfigError(problems[0])
    return made.found_in(base.folders)


def _validated(base: Settings, changes: Mapping[str, Value]) -> Settings:
    """Return the settings when each value is sound by itself. Raises ConfigError as `settings_with`."""
    tree: dict[str, Any] = base.model_dump()
    for key, value in changes.items():
        *sections, name = key.split(".")
        branch: Any = tree
        for part in sections:
            branch = branch.setdefault(part, {}) if isinstance(branch, dict) else None
        if not isinstance(branch, dict):
            raise ConfigError(f"{key}: unknown key; see `ballast config --schema` for the keys")
        branch[name] = value
    try:
        return Settings.model_validate(tree)
    except ValidationError as problem:
        error = problem.errors()[0]
    key, context = ".".join(str(part) for part in error["loc"]), error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        raise ConfigError(f"{key}: unknown key; see `ballast config --schema` for the keys")
    if error["type"] in BOUNDS:
        name, text = BOUNDS[error["type"]]
        wanted = text.format(context[name])
    elif error["type"] == "value_error":
        wanted = str(context["error"])
    elif error["type"] == "literal_error":
        wanted = f"must be {context['expected']}"
    else:
        wanted = WANTED.get(error["type"], error["msg"])
    raise ConfigError(f"{key} = {changes.get(key, '?')}: {' '.join(wanted.split())}")


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...], found: dict[str, Mapping[str, Any]]) -> None:
    """Collect the entries: tables that hold a range or choices, at ``[risk.max_weight]`` or as ``"risk.max_weight"``.

    Raises ValueError for anything else.
    """
    for name, value in tree.items():
        here = (*path, name)
        if not isinstance(value, dict):
            raise ValueError(f"{'.'.join(here)} = {value!r}: must be a table with low and high, or with choices")
        if "low" in value or "high" in value or "choices" in value:
            found[".".join(here)] = value
        else:
            _leaves(value, here, found)


def _distribution(key: str, entry: Mapping[str, Any], settings: Settings) -> BaseDistribution:
    """Return one key's distribution. Raises ValueError (ConfigError for the key itself) with what is wrong."""
    section = key.partition(".")[0]
    if section not in TUNABLE or "." not in key:
        raise ConfigError(f"{key}: cannot be searched; keys of {', '.join(TUNABLE)} can")
    try:
        if "choices" in entry:
            choices = msgspec.convert(dict(entry), _Choices).choices
            if not 1 <= len(choices) <= CHOICES_MAX or len({repr(one) for one in choices}) < len(choices):
                raise ValueError(f"choices must be 1 to {CHOICES_MAX} different values")
            ends: tuple[Value, ...] = tuple(choices)
            made: BaseDistribution = CategoricalDistribution(choices)
        else:
            given = msgspec.convert(dict(entry), _Range)
            ends = (given.low, given.high)
            made = _range(given)
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}; write low and high (with log or step), or choices") from None
    for value in ends:  # a key or an end that no configuration may have; how keys fit together only a trial can say
        _validated(settings, {key: value})
    return made


def _range(given: _Range) -> BaseDistribution:
    if not all(isfinite(one) for one in (given.low, given.high, given.step or 1)):
        raise ValueError("low, high and step must be finite")
    if given.low >= given.high:
        raise ValueError(f"low = {given.low} must be below high = {given.high}")
    if given.log and given.low <= 0:
        raise ValueError(f"low = {given.low}: must be positive on a log scale")
    if given.log and given.step is not None:
        raise ValueError("log and step exclude each other")
    if given.step is not None and not 0 < given.step <= given.high - given.low:
        raise ValueError(f"step = {given.step}: must be positive and at most high - low")
    low, high, step = given.low, given.high, given.step
    if isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int)):
        step = step or 1
        return IntDistribution(low, low + (high - low) // step * step, log=given.log, step=step)
    if step is not None:
        high = low + int((high - low) / step + 1e-9) * step  # optuna would say the same with a warning
    return FloatDistribution(float(low), float(high), log=given.log, step=None if step is None else float(step))
