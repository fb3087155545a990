"""Training: split without leaks, labels right, seeded, bounded in time, saved by a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy import int64

from strategies.artifact import Hyper, current, load_artifact, load_forecaster
from strategies.features import make_features
from strategies.training.__main__ import main
from strategies.training.history import BadHistory, History, cut_windows, read_history, split, write_history
from strategies.training.loss import training_loss
from strategies.training.train import Progress, TrainSpec, learning_rate, train
from tests.strategies.forecast_kit import BAR_NS, history_of

ROOT = Path(__file__).parents[2]
SMALL = Hyper(hidden=16, hidden_top=8, epochs_max=2)
SPEC = TrainSpec(lookback=30, horizon_bars=4, hyper=SMALL, seconds_max=60)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """As in the training process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def history() -> History:
    """Two assets, 700 bars, nothing to learn."""
    return history_of(np.random.default_rng(1).normal(0, 1e-3, (2, 700)))


@given(st.integers(400, 30_000), st.integers(2, 100), st.integers(1, 48))
def test_split_is_in_time_order_and_purged(n_bars: int, lookback: int, horizon: int) -> None:
    """Each part's labels are known before the next part begins; every window and label lies inside the history."""
    try:
        parts = split(n_bars, lookback=lookback, horizon_bars=horizon)
    except BadHistory as error:
        needed = int(str(error).rsplit("at least ", 1)[1].split()[0])
        assert needed > n_bars  # what it asks for is more than it was given, and enough:
        split(needed, lookback=lookback, horizon_bars=horizon)
        return

    assert parts.train[0] == lookback
    assert parts.train[1] - 1 + horizon < parts.valid[0]
    assert parts.valid[1] - 1 + horizon < parts.held[0]
    assert parts.held[1] - 1 + horizon == n_bars - 1
    assert min(b - a for a, b in (parts.train, parts.valid, parts.held)) >= 30


def test_labels(history: History) -> None:
    """A label is the simple return of the next horizon bars, in units of the window's sigma·sqrt(horizon)."""
    ends = np.array([40, 300], dtype=int64)
    windows = cut_windows(history, ends, lookback=30, horizon_bars=4, last=5)
    close = history.bars[1, :, 3]
    X, sigma = make_features(history.bars[1:2, :301], 30)

    assert windows.y.shape == (2, 2, 5)
    assert windows.unit[1, 1] == sigma[0] * 2
    assert np.array_equal(windows.X[1, 1], X[0])
    for back in range(5):
        t = 300 - back
        assert windows.y[1, 1, 4 - back] == pytest.approx((close[t + 4] / close[t] - 1) / (sigma[0] * 2), rel=1e-12)


def test_learning_rate_is_one_cycle() -> None:
    """Up to the peak at 15 %, then down to 1 %, never beyond."""
    rates = [learning_rate(1.0, x / 100) for x in range(121)]

    assert max(rates) == rates[15] == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[100] == rates[120] == pytest.approx(0.01)
    assert rates[15:] == sorted(rates[15:], reverse=True)


def test_loss_terms() -> None:
    """The likelihood leaves the mean alone; the return term pulls towards profit, cost pulls towards stillness."""
    y = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    unit = torch.tensor([0.01])

    def gradients(hyper: Hyper, scale_at: float, mean_at: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.tensor([mean_at], requires_grad=True)
        scale = torch.full((1, 4), scale_at, requires_grad=True)
        training_loss(mean, scale, y, unit, hyper=hyper, shift=1).backward()  # type: ignore[no-untyped-call]
        assert mean.grad is not None
        assert scale.grad is not None
        return mean.grad, scale.grad

    plain = Hyper(return_weight=0.0)
    assert torch.equal(gradients(plain, 1.0, [0.1] * 4)[0], gradients(plain, 5.0, [0.1] * 4)[0])
    assert torch.allclose(gradients(plain, 1.0, [0.0] * 4)[0], -y / 2)
    assert (gradients(plain, 3.0, [0.0] * 4)[1] > 0).all()  # too wide: narrower is likelier
    free, dear = Hyper(return_weight=1.0, cost_bps=0.0), Hyper(return_weight=1.0, cost_bps=100.0)
    at = [0.1, 0.1, -0.1, -0.1]
    pull = gradients(free, 1.0, at)[0] - gradients(plain, 1.0, at)[0]
    assert torch.equal(torch.sign(pull), -y)  # more profit lies in the direction of the return
    less = gradients(dear, 1.0, at)[0] - gradients(free, 1.0, at)[0]
    assert less[0, 1] > 0 > less[0, 2]  # the trade in the middle costs: draw the positions together


def test_same_seed_same_model(history: History) -> None:
    """The same seed gives the same weights to the last bit, another seed others."""
    first, second = train(history, SPEC), train(history, SPEC)
    other = train(history, msgspec.structs.replace(SPEC, seed=2))

    states = [r.net.state_dict() for r in (first, second, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])
    assert first.earned == second.earned
    assert not first.net.training


def test_the_held_out_bars_are_never_seen(history: History) -> None:
    """Other prices in the held-out part give the same weights; other prices in the training part do not."""
    states = []
    for at in (None, split(700, lookback=30, horizon_bars=4).held[0], 100):
        bars = history.bars.copy()
        if at is not None:
            bars[:, at:, :4] *= np.linspace(1.0, 2.0, 700 - at)[:, np.newaxis]
        states.append(train(History(history.symbols, history.close_ns, bars), SPEC).net.state_dict())

    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_time_is_bounded_and_the_best_is_kept(history: History) -> None:
    """When the seconds are used up, training ends within a step and still answers."""
    now = iter(float(i) for i in range(1_000_000))
    lines: list[Progress] = []
    spec = msgspec.structs.replace(SPEC, seconds_max=5.0, hyper=Hyper(hidden=16, hidden_top=8, epochs_max=1000))
    result = train(history, spec, lines.append, clock=lambda: next(now))

    assert result.metrics["epochs"] == 1
    assert len(lines) == 1
    assert np.isfinite(result.held_mean).all()


def test_early_stopping(history: History) -> None:
    """Without progress on the validation part it stops after `patience` epochs and keeps the naive forecast."""
    noise = Hyper(hidden=16, hidden_top=8, epochs_max=30, patience=3, learning_rate=3e-2)
    lines: list[Progress] = []
    result = train(history, msgspec.structs.replace(SPEC, hyper=noise), lines.append)

    assert lines[-1].epoch < 30
    assert [line.best for line in lines[-3:]] == [lines[-1].best] * 3
    assert result.metrics["validation_skill"] == lines[-1].best


def test_history_file(tmp_path: Path, history: History) -> None:
    """The npz layout round-trips; damage, gaps and wrong shapes are one clear line."""
    path = tmp_path / "h.npz"
    write_history(path, history)
    again = read_history(path)
    assert (again.symbols, again.bar_ns, again.digest()) == (history.symbols, BAR_NS, history.digest())

    whole = path.read_bytes()
    for size in (0, 3, 50, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(BadHistory, match="not a history file"):
            read_history(path)
    with pytest.raises(BadHistory, match="no such file"):
        read_history(tmp_path / "nothing.npz")
    np.savez(path, symbols=np.array([object()]), close_ns=np.arange(3), bars=np.ones((1, 3, 5)))
    with pytest.raises(BadHistory, match="not a history file"):
        read_history(path)
    with pytest.raises(BadHistory, match="no history: 0 symbols"):
        write_history(path, History((), np.arange(5), np.ones((0, 5, 5))))
    with pytest.raises(BadHistory, match="bars have shape"):
        write_history(path, History(("A/B",), np.arange(5), np.ones((1, 4, 5))))
    with pytest.raises(BadHistory, match="not evenly spaced at bar 3"):
        write_history(path, History(("A/B",), np.array([0, 1, 2, 4]), np.ones((1, 4, 5))))


def test_bad_history_is_refused(history: History) -> None:
    """Too few bars and unusable bars are named."""
    short = History(history.symbols, history.close_ns[:200], history.bars[:, :200])
    with pytest.raises(
        BadHistory, match=r"200 bars of history are too few for lookback 30 and horizon_bars 4; at least"
    ):
        train(short, SPEC)
    bars = history.bars.copy()
    bars[1, 50, 3] = np.nan
    with pytest.raises(BadHistory, match=r"asset 1: bar 50 of the window is not usable"):
        train(History(history.symbols, history.close_ns, bars), SPEC)


def run_process(data: Path, out: Path, spec: str) -> subprocess.CompletedProcess[str]:
    """The training process as the daemon starts it."""
    command = [sys.executable, "-m", "strategies.training", "--data", str(data), "--out", str(out), "--spec", spec]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_process(tmp_path: Path, history: History) -> None:
    """It reports progress as JSON lines, publishes a model that loads and fits, and exits 0."""
    write_history(tmp_path / "h.npz", history)
    done = run_process(tmp_path / "h.npz", tmp_path / "models", msgspec.json.encode(SPEC).decode())
    lines = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [line["type"] for line in lines] == ["progress", "progress", "done"]
    folder = current(tmp_path / "models")
    assert folder is not None
    assert folder.name == lines[-1]["model"]
    manifest = load_artifact(folder).manifest
    assert (manifest.lookback, manifest.horizon_bars, manifest.bar_ns, manifest.symbols) == (
        30,
        4,
        BAR_NS,
        history.symbols,
    )
    assert manifest.data_sha256 == history.digest()
    assert manifest.train_start_ns == history.close_ns[0]
    assert manifest.train_end_ns < manifest.data_end_ns == history.close_ns[-1]
    assert manifest.skill.shrink == lines[-1]["shrink"]
    forecaster = load_forecaster("lstm", tmp_path / "models", 4, lookback=30, bar_ns=BAR_NS)
    assert np.isfinite(forecaster.predict(history.bars).mean).all()


def test_the_process_fails_in_one_line(
    tmp_path: Path, history: History, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, too little history, a wrong spec, an unwritable registry: exit 1 and one line on stderr."""
    monkeypatch.setattr(os, "nice", lambda _: 0)  # the test run itself keeps its priority
    write_history(tmp_path / "h.npz", history)
    (tmp_path / "file").write_bytes(b"")
    spec = msgspec.json.encode(SPEC).decode()
    for data, out, text, reason in [
        ("none.npz", "models", spec, "no such file"),
        ("h.npz", "models", '{"horizon_bars": 300}', "too few"),
        ("h.npz", "models", '{"horizon": 3}', "is not a training spec"),
        ("h.npz", "models", "nonsense", "is not a training spec"),
        ("h.npz", "models", '{"horizon_bars": 0}', "horizon_bars = 0 must be at least 1"),
        ("h.npz", "models", '{"hyper": {"dropout": 1.0}}', "dropout must lie in 0..1"),
        ("h.npz", "file", spec, "file"),
    ]:
        code = main(["--data", str(tmp_path / data), "--out", str(tmp_path / out), "--spec", text])
        err = capsys.readouterr().err
        assert code == 1
        assert err.startswith("training failed: ")
        assert reason in err
        assert err.count("\n") == 1
        assert current(tmp_path / "models") is None
