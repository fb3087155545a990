"""The trainer: when it is due, what it writes for the training process, and how that process may end."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.domain.errors import Transient
from daemon.edge.clock import Clock
from daemon.service import training
from daemon.service.training import Trainer, TrainingFailed, model_rows, write_history
from daemon.settings import Settings, load_settings

BAR = 1_000_000_000
CHILD = """
import json, sys, time
words = json.loads({words!r})
for word in words:
    print(word if isinstance(word, str) else json.dumps(word), flush=True)
sys.stderr.write({error!r})
time.sleep({sleep})
sys.exit({code})
"""


class FakeMarket:
    """History of two pairs, or a venue that does not give it."""

    def __init__(self, error: Exception | None = None, lengths: tuple[int, int] = (50, 40)) -> None:
        """Say how much history each pair has."""
        self.error = error
        self.lengths = lengths
        self.asked = 0

    async def train_history(self, symbols: tuple[str, ...], bars: int, progress: Any) -> dict[str, Any]:
        """Return rows (n, 6) that end together."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        progress(len(symbols), len(symbols))
        return {symbol: table(length) for symbol, length in zip(symbols, self.lengths, strict=True)}


def table(length: int) -> Any:
    """Return ``length`` bars that end at bar 100."""
    rows = np.ones((length, 6))
    rows[:, 0] = BAR * np.arange(101 - length, 101)
    return rows


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two pairs and an LSTM."""
    file = tmp_path / "config.toml"
    file.write_text(f'universe = ["BTC/USDT", "ETH/USDT"]\nstate_dir = "{tmp_path / "var"}"\n')
    return load_settings([file], {})


def pretend(
    monkeypatch: pytest.MonkeyPatch, words: list[Any], *, code: int = 0, error: str = "", sleep: float = 0.0
) -> None:
    """Let the training process be a few lines of our own."""
    import json

    real = asyncio.create_subprocess_exec
    source = CHILD.format(words=json.dumps(words), error=error, sleep=sleep, code=code)

    async def start(_python: str, *_arguments: str, **options: Any) -> asyncio.subprocess.Process:
        return await real(sys.executable, "-c", source, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)


async def train(settings: Settings, market: FakeMarket) -> tuple[str, list[str]]:
    """Train once; return the model's name and what was said."""
    said: list[str] = []
    anything: Any = market
    return await training.train(settings, anything, say=said.append), said


async def test_progress_is_told_and_the_model_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are no JSON are passed over."""
    epoch = {"epoch": 1, "epochs": 2, "skill": 0.25, "seconds": 3.0}
    pretend(monkeypatch, ["not json", epoch, {"model": "m-1"}])

    name, said = await train(settings, FakeMarket())

    assert name == "m-1"
    assert "epoch 1 of 2: skill 0.250, 3 s" in said


@pytest.mark.parametrize(("words", "code"), [([{"model": "m"}], 3), ([], 0)])
async def test_a_process_that_ends_badly_says_why(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, words: list[Any], code: int
) -> None:
    """Its last line is the reason; without a model it is a failure whatever its code."""
    pretend(monkeypatch, words, code=code, error="first\nonly 12 bars\n")

    with pytest.raises(TrainingFailed, match=f"code {code}: only 12 bars"):
        await train(settings, FakeMarket())


async def test_a_process_that_says_nothing_at_all(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed by the system, for instance."""
    pretend(monkeypatch, [], code=9)

    with pytest.raises(TrainingFailed, match="no word"):
        await train(settings, FakeMarket())


async def test_a_process_that_hangs_is_killed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is bounded."""
    pretend(monkeypatch, [], sleep=60.0)
    monkeypatch.setattr(training, "MARGIN_S", 0.5 - settings.forecast.train_seconds_max)

    with pytest.raises(TrainingFailed, match="took longer"):
        await train(settings, FakeMarket())


def test_history_is_cut_to_the_times_all_pairs_have(tmp_path: Path) -> None:
    """A pair listed later shortens it for all."""
    file = tmp_path / "history.npz"
    write_history(file, {"A": table(50), "B": table(40)})
    with np.load(file) as saved:
        assert saved["bars"].shape == (2, 40, 5)
        assert saved["close_ns"].dtype == np.int64
        assert list(saved["close_ns"][[0, -1]]) == [61 * BAR, 100 * BAR]


def test_history_with_a_hole_or_without_a_pair_is_refused(tmp_path: Path) -> None:
    """Better no model than one trained on what does not belong together."""
    with pytest.raises(TrainingFailed, match="no history for B"):
        write_history(tmp_path / "x", {"A": table(5), "B": table(0)})
    with pytest.raises(TrainingFailed, match="time grid"):
        write_history(tmp_path / "x", {"A": table(50), "B": np.delete(table(50), 7, axis=0)})


class Served:
    """A worker as the trainer knows it."""

    def __init__(self, told: Callable[[], None] = lambda: None, learns: bool | None = True) -> None:
        """Keep whom to tell."""
        self.reload_model = told
        self.says = learns
        self.asked = 0

    @property
    def learns(self) -> bool | None:
        """Say it, and count how often it was asked."""
        self.asked += 1
        return self.says


async def test_a_strategy_without_a_model_trains_none(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched for a strategy that serves no model, nor before its worker has said which it is; then it is."""
    for name, value in (("WATCH_S", 0.001), ("POLL_S", 0.001)):
        monkeypatch.setattr(training, name, value)
    pretend(monkeypatch, [{"model": "m-1"}])
    market = FakeMarket()
    announced = asyncio.Event()
    worker = Served(announced.set, None)
    here: Any = market
    own = settings.model_copy(update={"strategy": "my_strategy:MyStrategy"})
    trainer = Trainer(own, here, Clock(), worker=worker)
    running = asyncio.create_task(trainer.run())
    for says in (None, False):
        worker.says, worker.asked = says, 0
        async with asyncio.timeout(20.0):
            while worker.asked < 5:
                await asyncio.sleep(0.001)
        assert market.asked == 0
    worker.says = True
    await asyncio.wait_for(announced.wait(), 20.0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert market.asked > 0


async def test_the_trainer_goes_on_after_a_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exchange that does not answer, then a model: it is announced once."""
    monkeypatch.setattr(training, "RETRY_S", 0.001)
    pretend(monkeypatch, [{"model": "m-1"}])
    market = FakeMarket(Transient("down"))
    announced = asyncio.Event()
    here: Any = market
    trainer = Trainer(settings, here, Clock(), worker=Served(announced.set))
    assert trainer.due()
    running = asyncio.create_task(trainer.run())
    while market.asked < 3:
        await asyncio.sleep(0.001)
    market.error = None
    await asyncio.wait_for(announced.wait(), 20.0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_damaged_model_is_trained_anew(settings: Settings) -> None:
    """What cannot be loaded is no model."""
    here: Any = FakeMarket()
    trainer = Trainer(settings, here, Clock(), worker=Served())
    (trainer.models / "m-1").mkdir(parents=True)
    (trainer.models / "current").write_text("m-1")

    assert trainer.due()
    assert isinstance(model_rows(trainer.models), list)
