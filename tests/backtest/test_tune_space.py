"""The search space: every key and range is checked before anything runs, and every trial's settings are real ones."""

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from daemon.backtest.tune_space import REFERENCE, default_space, read_space, settings_with
from daemon.domain.errors import ConfigError
from daemon.settings import load_settings
from tests.backtest.tune_kit import settings_of


def _read(tmp_path: Path, text: str) -> object:
    file = tmp_path / "space.toml"
    file.write_text(text)
    return read_space(file, settings_of())


def test_every_kind_of_range(tmp_path: Path) -> None:
    """Tables and dotted keys, whole numbers, steps, logarithms and choices; keys come sorted."""
    space = _read(
        tmp_path,
        """
        [strategy_params.lookback]
        low = 24
        high = 100
        step = 24
        [strategy_params.speed]
        low = 0.001
        high = 1.0
        log = true
        ["optimizer.rebalance_every"]
        choices = [1, 4]
        [risk]
        max_weight = { low = 0.1, high = 0.48, step = 0.1 }
        """,
    )

    assert space == {
        "optimizer.rebalance_every": CategoricalDistribution((1, 4)),
        "risk.max_weight": FloatDistribution(0.1, 0.4, step=0.1),
        "strategy_params.lookback": IntDistribution(24, 96, step=24),
        "strategy_params.speed": FloatDistribution(0.001, 1.0, log=True),
    }
    assert list(space) == sorted(space)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing to search"),
        ("risk.max_weight = 0.3", "risk.max_weight = 0.3: must be a table"),
        ("[risk.max_weigth]\nlow = 0.1\nhigh = 0.2", "risk.max_weigth: unknown key"),
        ("[risk.max_weight.x]\nlow = 0.1\nhigh = 0.2", "risk.max_weight.x: unknown key"),
        ("[paper.fee_bps]\nlow = 0.1\nhigh = 0.2", "paper.fee_bps: cannot be searched"),
        ("[mode]\nchoices = ['live']", "mode: cannot be searched"),
        ("[risk.max_weight]\nlow = 0.2\nhigh = 0.1", "low = 0.2 must be below high = 0.1"),
        ("[risk.max_weight]\nlow = 0.2", "missing required field `high`"),
        ("[risk.max_weight]\nlow = 0.2\nhigh = 0.3\nsteps = 2", "unknown field `steps`"),
        ("[risk.max_weight]\nlow = 0.2\nhigh = 7.0", "risk.max_weight = 7.0: must be at most 1"),
        ("[risk.max_weight]\nlow = 0.0\nhigh = 0.5\nlog = true", "positive on a log scale"),
        ("[risk.max_weight]\nlow = 0.1\nhigh = 0.5\nlog = true\nstep = 0.1", "exclude each other"),
        ("[risk.max_weight]\nlow = 0.1\nhigh = 0.5\nstep = 1.0", "step = 1.0"),
        ("[risk.max_weight]\nlow = '0.1'\nhigh = 0.5", "low"),
        ("[strategy_params.x]\nlow = 1\nhigh = inf", "finite"),
        ("[risk.max_weight]\nlow = nan\nhigh = 0.5", "finite"),
        ("[risk.max_weight]\nlow = 0.1\nhigh = inf", "finite"),
        ("[optimizer.rebalance_every]\nlow = 1.0\nhigh = 4.0", "optimizer.rebalance_every = 1.0"),
        ("[optimizer.rebalance_every]\nchoices = []", "1 to 64 different values"),
        ("[optimizer.rebalance_every]\nchoices = [1, 1]", "1 to 64 different values"),
        ("[optimizer.covariance]\nchoices = ['none']", "optimizer.covariance = none: must be"),
        ("[strategy_params.x]\nchoices = [[1]]", "choices"),
        ("low = ", "not valid TOML"),
    ],
)
def test_what_cannot_be_searched(tmp_path: Path, text: str, words: str) -> None:
    """One line that names the file, the key and what is wrong."""
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, text)

    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "space.toml"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Is named."""
    with pytest.raises(ConfigError, match=r"space\.toml: cannot be read \(No such file"):
        read_space(tmp_path / "space.toml", settings_of())


def test_ends_that_contradict_another_key_are_a_matter_of_the_trial(tmp_path: Path) -> None:
    """A range may hold values that only some combinations allow."""
    _read(tmp_path, "[risk.exit_collar]\nlow = 0.001\nhigh = 0.02")  # price_collar is 0.01

    with pytest.raises(ConfigError, match="risk.exit_collar = 0.001: tighter than price_collar"):
        settings_with(settings_of(), {"risk.exit_collar": 0.001})


def test_settings_with_changes() -> None:
    """Only what is named changes; the folders of the files are kept."""
    base = settings_of().found_in(("/somewhere",))
    made = settings_with(base, {"risk.max_weight": 0.2, "strategy_params.lookback": 24, "optimizer.rebalance_every": 4})

    assert (made.risk.max_weight, made.strategy_params, made.optimizer.rebalance_every) == (0.2, {"lookback": 24}, 4)
    assert made.folders == ("/somewhere",)
    back = settings_with(made, {"risk.max_weight": base.risk.max_weight, "optimizer.rebalance_every": 1})
    assert back.model_copy(update={"strategy_params": {}}) == base


@pytest.mark.parametrize("strategy", [REFERENCE, "strategies.examples.momentum:Momentum"])
def test_the_default_space_is_sound(strategy: str) -> None:
    """Every end of every default range is a configuration; the reference strategy is searched further."""
    settings = settings_with(load_settings([], {}), {"strategy_params.x": 1}).model_copy(update={"strategy": strategy})
    space = default_space(settings)
    for key, one in space.items():
        ends = one.choices if isinstance(one, CategoricalDistribution) else (one.low, one.high)  # type: ignore[attr-defined]
        for end in ends:
            assert end is not None
            settings_with(settings, {key: end})

    assert ("optimizer.risk_tolerance" in space) == (strategy == REFERENCE)
    assert list(space) == sorted(space)
