"""`ballast init` on real files, `check` on what it wrote, and the real worker with the sample strategy."""

import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from daemon.cli.config_text import COMMENTS, SECRETS, config_text
from daemon.domain.events import WorkerUp
from daemon.domain.signal import NoReason, Targets
from daemon.edge.worker_child import InlineWorker
from daemon.service.wiring import worker_config
from daemon.settings import Settings, load_settings
from strategies.examples.my_strategy import MyStrategy
from tests.edge.test_worker import ask, reason, running, seed, weights

Run = Callable[..., tuple[int, str, str]]
RAISES = "class MyStrategy:\n    def decide(self, view, params):\n        {}\n"


@pytest.fixture
def made(ballast: Run, tmp_path: Path) -> Path:
    """A folder that init has filled."""
    code, _, err = ballast("init", str(tmp_path / "mine"))
    assert (code, err) == (0, "")
    return tmp_path / "mine"


def test_the_configuration_is_the_defaults(made: Path) -> None:
    """Every key of the schema stands there with its default, but for the strategy and where the state lies."""
    settings = load_settings([made / "ballast.toml"], {})
    expected = load_settings([], {}).model_dump() | {
        "strategy": "my_strategy:MyStrategy",
        "state_dir": str(made / "var"),
    }
    written = tomllib.loads((made / "ballast.toml").read_text())

    assert settings.model_dump() == expected
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            assert set(written[name]) == set(kind.model_fields) - SECRETS
        else:
            assert name in written


def test_every_key_has_its_comment(made: Path) -> None:
    """Beside it or above it; no line is too long; what the schema says of itself is not said a second time."""
    lines = (made / "ballast.toml").read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if " = " in line and not line.startswith("#"):
            assert "  # " in line or before.startswith("# "), line
    assert max(len(line) for line in lines if not line.startswith(("universe", "state_dir"))) <= 120
    for key in COMMENTS:
        section, _, name = key.rpartition(".")
        kind = Settings.model_fields[section].annotation if section else Settings
        assert isinstance(kind, type)
        assert issubclass(kind, BaseModel)
        assert kind.model_fields[name].description is None, key


@pytest.mark.parametrize("name", ['with "quotes" and \\ in it', "naïve 交易", "tab\tand\x7fdelete", "a#b = c"])
def test_any_folder_name(ballast: Run, tmp_path: Path, name: str) -> None:
    """What a folder is called cannot break the file."""
    assert ballast("init", str(tmp_path / name))[0] == 0
    assert load_settings([tmp_path / name / "ballast.toml"], {}).state_dir == str(tmp_path / name / "var")


def test_a_relative_folder_keeps_its_state_where_it_is(ballast: Run, tmp_path: Path) -> None:
    """Wherever the daemon is started from later; the JSON says where everything is."""
    code, out, _ = ballast("init", "here", "--json")

    assert code == 0
    assert str(tmp_path / "here/my_strategy.py") in out
    assert load_settings(["here/ballast.toml"], {}).state_dir == str(tmp_path / "here/var")


@pytest.mark.parametrize("name", ["ballast.toml", "my_strategy.py"])
def test_nothing_is_overwritten(ballast: Run, tmp_path: Path, name: str) -> None:
    """One line, exit 2, the other file is not written either; --force overwrites."""
    (tmp_path / name).write_text("mine")
    code, out, err = ballast("init", str(tmp_path))

    assert (code, out) == (2, "")
    assert err == f"ballast: {tmp_path / name}: is there already; choose another folder, or overwrite it with --force\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
    assert ballast("init", str(tmp_path), "--force")[0] == 0
    assert (tmp_path / name).read_text() != "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ballast.toml", "my_strategy.py"]


def test_a_folder_that_cannot_be_written(ballast: Run, tmp_path: Path) -> None:
    """A file in its place, or a name that no TOML can hold: one line, exit 2, nothing left behind."""
    (tmp_path / "file").write_text("")
    for name in (str(tmp_path / "file"), str(tmp_path / "file/below"), os.fsdecode(b"caf\xe9")):
        code, out, err = ballast("init", name)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert "choose another folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_nothing(ballast: Run, tmp_path: Path) -> None:
    """The second of two files cannot be put in place: no half-written file stays."""
    (tmp_path / "ballast.toml").mkdir()
    code, _, err = ballast("init", str(tmp_path), "--force")

    assert code == 2
    assert "cannot be written" in err
    assert not list(tmp_path.glob(".*.part"))


def test_check_tries_the_strategy(ballast: Run, made: Path) -> None:
    """What was written is ready to start, and what is wrong with a strategy is said before it is needed."""
    config, strategy = str(made / "ballast.toml"), made / "my_strategy.py"
    assert ballast("check", "-c", config)[:2] == (0, "ready to start: mode paper, 4 pairs, bar 1h\n")
    for text, wanted in (
        (RAISES.format("raise RuntimeError('no idea')"), "strategy_raised: RuntimeError: no idea (my_strategy.py:3)"),
        (RAISES.format("return view.bars[0, -1, 3]"), "strategy_raised: decide returned float64, not Targets"),
        (RAISES.format("view.bars[0, -1, 3] = 1"), "ValueError: assignment destination is read-only"),
        (RAISES.format("view.weights = ()"), "AttributeError: immutable type: 'View'"),
        ("class MyStrategy:\n    def decide(", "SyntaxError"),
        ("class Other: pass\n", "has no attribute 'MyStrategy'"),
        ("import nowhere_at_all\n", "no module 'nowhere_at_all', neither installed nor in"),
        ("class MyStrategy: pass\n", "has no method decide(view, params)"),
    ):
        strategy.write_text(text)
        code, out, _ = ballast("check", "-c", config)
        assert code == 78
        assert wanted in out
        assert len(out.splitlines()) == 1


def test_check_finds_parameters_that_cannot_work(ballast: Run, made: Path) -> None:
    """A key the strategy does not know, and a window longer than the bars that are kept."""
    config = made / "ballast.toml"
    text = config.read_text()
    config.write_text(text.replace("# lookback = 48", "lookbak = 48"))
    assert "strategy_params.lookbak: unknown; known is lookback" in ballast("check", "-c", str(config))[1]
    config.write_text(text.replace("# lookback = 48", "lookback = 3000"))
    assert "feed.backfill_bars = 2000" in ballast("check", "-c", str(config))[1]


async def test_the_sample_decides_in_the_real_worker(made: Path) -> None:
    """From the file that init wrote to a decision of the worker process, whatever the working folder is."""
    configured = worker_config(load_settings([made / "ballast.toml"], {}))
    async with running(configured) as test:
        assert test.of(WorkerUp)[0].model == ""
        assert test.worker.learns is False  # so the daemon trains none for it
        decided = await test.answer(ask(1, clock=test.clock))

    assert isinstance(decided.result, Targets)
    assert decided.result.status == "my_strategy"
    assert all(0.0 <= weight <= 0.3 for weight in weights(decided))
    assert sum(weights(decided)) > 0.0


async def test_an_example_decides_in_the_real_worker() -> None:
    """`strategy = "strategies.examples.momentum:Momentum"` with its parameters, as a configuration names it."""
    env = {
        "BALLAST_STRATEGY": "strategies.examples.momentum:Momentum",
        "BALLAST_STRATEGY_PARAMS__LOOKBACK": "100",
        "BALLAST_STRATEGY_PARAMS__TOP": "2",
    }
    async with running(worker_config(load_settings([], env))) as test:
        decided = await test.answer(ask(1, clock=test.clock))

    assert isinstance(decided.result, Targets), decided
    assert decided.result.status == "momentum"
    assert sum(weight > 0.0 for weight in weights(decided)) <= 2


async def test_a_file_beside_the_configuration_replaces_no_library(made: Path) -> None:
    """What is installed is found first; what is not is found beside the file, also by the strategy's own imports."""
    (made / "colorsys.py").write_text("raise RuntimeError('not the library')\n")
    (made / "my_neighbour.py").write_text("SHARE = 0.1\n")
    strategy = made / "my_strategy.py"
    strategy.write_text("import colorsys\nimport my_neighbour\n" + strategy.read_text())
    async with running(worker_config(load_settings([made / "ballast.toml"], {}))) as test:
        assert isinstance((await test.answer(ask(1, clock=test.clock))).result, Targets)


def test_inline_worker_finds_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backtest asks the same strategy from the same place, and says so when it is not there."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "only_inline.py").write_text(RAISES.format("return params['answer']"))
    (tmp_path / "a.toml").write_text('strategy = "only_inline:MyStrategy"\n')
    inline = InlineWorker(worker_config(load_settings([tmp_path / "a.toml"], {})))
    inline.seed(seed())
    assert reason(inline.decide(ask(1))) is NoReason.STRATEGY_RAISED
    (tmp_path / "b.toml").write_text('strategy = "is_not_there:MyStrategy"\n')
    with pytest.raises(ValueError, match=f"no module 'is_not_there', neither installed nor in {tmp_path}"):
        InlineWorker(worker_config(load_settings([tmp_path / "b.toml"], {})))


def test_what_is_written_is_the_module_we_test(made: Path) -> None:
    """The sample is strategies/examples/my_strategy.py to the byte: linted, typed and tested as such."""
    source = Path(sys.modules[MyStrategy.__module__].__file__ or "").read_bytes()
    assert (made / "my_strategy.py").read_bytes() == source
    assert (made / "ballast.toml").read_text() == config_text(
        {"strategy": "my_strategy:MyStrategy", "state_dir": str(made / "var")}
    )
