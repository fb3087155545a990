"""The worker on the real process: it answers, it is contained, it is replaced."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest

from daemon.domain.events import Decide, Decided, Event, Seed, WorkerDown, WorkerUp
from daemon.domain.market import Bar, BarFlag
from daemon.domain.signal import Forecast, NoDecision, NoReason, Targets
from daemon.edge.clock import Clock
from daemon.edge.containment import contain
from daemon.edge.supervisor import RESTARTS_MAX, Supervisor
from daemon.edge.worker import Worker
from daemon.edge.worker_child import InlineWorker, daily_returns, without_holes
from daemon.edge.worker_wire import Answer, Frames, Ready, WorkerConfig, frame
from strategies.limits import limits_of
from strategies.params import ForecastParams, OptimizerParams, StrategySetup
from strategies.training.registry import publish
from tests.edge.handles_kit import few_handles, handles
from tests.strategies.forecast_kit import untrained

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")
BAR_NS = 3_600 * 10**9
START_NS = 1_700_000_000 // 3_600 * BAR_NS
BARS = 300
PATIENCE_S = 60.0
T = TypeVar("T")

LOST = Decided(
    seq=77, result=NoDecision(NoReason.PAUSED, ""), features_ns=0, forecast_ns=0, solve_ns=0, ts_ns=0
)  # fmt: skip
NAUGHTY = '''
import time
from daemon.domain.signal import Targets

class Base:
    def decide(self, view, params):
        return Targets(symbols=view.symbols, weights=self.weights(view, params))

class Steady(Base):
    def weights(self, view, params):
        return (float(params.get("weight", 0.1)),) * len(view.symbols)

class Raises(Base):
    def weights(self, view, params):
        raise RuntimeError("no idea\\nat all")

class Nan(Base):
    def weights(self, view, params):
        return (float("nan"),) * len(view.symbols)

class Greedy(Base):
    def weights(self, view, params):
        return (5.0,) * len(view.symbols)

class Short(Base):
    def weights(self, view, params):
        return (0.1,)

class Hangs(Base):
    def weights(self, view, params):
        while True:
            pass

class Slow(Base):
    def weights(self, view, params):
        time.sleep(0.3)
        return (view.bars[0, -1, 3] / 1e6,) * len(view.symbols)

class Window(Base):
    """Answers with what it saw, so a test can tell which bars arrived."""
    def weights(self, view, params):
        return tuple((view.bars[:, -2:, 3].sum(axis=1) / 1e6).tolist())

class Surroundings(Base):
    """Says how many descriptors and which thread limit it has."""
    def weights(self, view, params):
        import os
        fds = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        print("this must not reach the daemon's stdout")
        return (len(fds) / 100, float(os.environ["OMP_NUM_THREADS"]) / 10, len(os.environ.get("SECRET", "")) / 10, 0.0)

class Leaves(Base):
    def weights(self, view, params):
        import os
        os._exit(7)

class Exits(Base):
    def weights(self, view, params):
        raise SystemExit(7)

class Unsendable:
    def decide(self, view, params):
        return Targets(symbols=view.symbols, weights=(0.1,) * 4, binding=(object(),))

class Wrong:
    def decide(self, view, params):
        return "buy everything"

class Mute:
    pass

class NeverReady:
    def __init__(self):
        time.sleep(3600)

class Broken:
    def __init__(self):
        raise RuntimeError("cannot start")
'''


def setup(**changes: object) -> StrategySetup:
    """A set-up on the ewma baseline, believed as it is."""
    base = StrategySetup(
        forecast=ForecastParams(model="ewma", shrink="none"),
        optimizer=OptimizerParams(),
        symbols=SYMBOLS,
        bar_ns=BAR_NS,
    )
    return msgspec.structs.replace(base, **changes)


def config(strategy: str = "naughty:Steady", **changes: object) -> WorkerConfig:
    """A worker that keeps few bars and restarts quickly."""
    base = WorkerConfig(setup=setup(), strategy=strategy, buffer_bars=256, backoff_ns_max=10**8)
    return msgspec.structs.replace(base, **changes)


def seed(seed_number: int = 1) -> Seed:
    """Correlated random walks and a year of daily closes."""
    rng = np.random.default_rng(seed_number)
    steps = rng.normal(2e-4, 0.006, (len(SYMBOLS), BARS)) + rng.normal(0, 0.004, BARS)
    closes = 100.0 * np.exp(np.cumsum(steps, axis=1))
    close_ns = START_NS + BAR_NS * np.arange(1, BARS + 1)
    rows = []
    for one in closes:
        opens = np.concatenate([[100.0], one[:-1]])
        table = np.stack(
            [close_ns, opens, np.maximum(opens, one), np.minimum(opens, one), one, np.full(BARS, 7.0)], axis=1
        )
        rows.append(table.astype(np.float64).tobytes())
    daily = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.03, (len(SYMBOLS), 365)), axis=1))
    return Seed(symbols=SYMBOLS, rows=tuple(rows), daily=tuple(one.tobytes() for one in daily), bar_ns=BAR_NS)


def bars(at: int, price: float = 100.0) -> tuple[Bar, ...]:
    """One bar per symbol, the `at`-th after the seed (from 1)."""
    close_ns = START_NS + BAR_NS * (BARS + at)
    return tuple(
        Bar(
            symbol=symbol, open_ns=close_ns - BAR_NS, close_ns=close_ns, open=price, high=price, low=price, close=price,
            volume=1.0, trades=3, first_id=1, last_id=3, flag=BarFlag.LIVE,
        )
        for symbol in SYMBOLS
    )  # fmt: skip


def ask(seq: int, *, clock: Clock | None = None, seconds: float = PATIENCE_S, price: float = 100.0) -> Decide:
    """The `seq`-th decision after the seed."""
    close_ns = START_NS + BAR_NS * (BARS + seq)
    now = clock.now_ns() if clock is not None else close_ns
    return Decide(
        seq=seq,
        ts_ns=close_ns,
        bar_ns=BAR_NS,
        close_ns=close_ns,
        symbols=SYMBOLS,
        bars=bars(seq, price),
        weights=(0.1, 0.0, 0.2, 0.0),
        frozen=(False,) * 4,
        caps=(0.3,) * 4,
        equity=1e5,
        cash_weight=0.7,
        turnover_left=0.5,
        deadline_ns=now + int(seconds * 1e9),
    )


@pytest.fixture
def naughty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of misbehaving strategies, importable here and in the child."""
    (tmp_path / "naughty.py").write_text(NAUGHTY)
    monkeypatch.syspath_prepend(str(tmp_path))


class Running:
    """A worker under test and the events it emitted."""

    def __init__(self, configured: WorkerConfig) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.worker = Worker(self.events.append, self.clock, configured)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Poll until `condition` holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)

    def of(self, kind: type[T]) -> list[T]:
        """Events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def ups(self, count: int) -> None:
        """Wait for the count-th WorkerUp and seed the child."""
        await self.until(lambda: len(self.of(WorkerUp)) >= count)
        self.worker.seed(seed())

    async def downs(self, count: int) -> None:
        """Wait for the count-th WorkerDown."""
        await self.until(lambda: len(self.of(WorkerDown)) >= count)

    async def answer(self, decide: Decide) -> Decided:
        """Ask and wait for the answer to this very view."""
        self.worker.decide(decide)
        await self.until(lambda: any(one.seq == decide.seq for one in self.of(Decided)))
        return next(one for one in self.of(Decided) if one.seq == decide.seq)


@asynccontextmanager
async def running(configured: WorkerConfig) -> AsyncIterator[Running]:
    """Run a worker, ready and seeded, and leave no process behind."""
    test = Running(configured)
    task = asyncio.create_task(test.worker.run())
    try:
        await test.ups(1)
        yield test
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert test.worker.pid == 0


def reason(decided: Decided) -> NoReason:
    """Why there was no decision."""
    assert isinstance(decided.result, NoDecision), decided
    assert "\n" not in decided.result.detail
    return decided.result.reason


def weights(decided: Decided) -> tuple[float, ...]:
    """The weights decided on."""
    assert isinstance(decided.result, Targets), decided
    return decided.result.weights


async def test_reference_strategy_equals_inline_worker() -> None:
    """The process and the inline worker give the same forecasts and weights for the same events."""
    configured = config("strategies.forecast_optimise:ForecastOptimise")
    inline = InlineWorker(configured)
    inline.seed(seed())
    async with running(configured) as test:
        assert test.of(WorkerUp)[0].model == inline.ready.model == "ewma"
        for seq in (1, 2, 3):
            decided = await test.answer(ask(seq, clock=test.clock, price=100.0 + seq))
            expected = inline.decide(ask(seq, price=100.0 + seq))
            assert isinstance(decided.result, Targets)
            assert isinstance(expected.result, Targets)
            assert decided.result == expected.result
            assert decided.result.rung == "warm"
            assert decided.forecast_ns > 0
            assert decided.solve_ns > 0
            assert expected.forecast_ns == 0
        assert 0 < test.worker.rss_bytes < 600 * 2**20


async def test_trained_network_in_the_process_equals_inline(tmp_path: Path) -> None:
    """With an LSTM from its files both give the same model, forecasts within 1e-6 and the same weights; reload swaps it."""
    horizon = 8
    registry = tmp_path / "models"
    net, manifest = untrained(1, horizon=horizon)
    first = publish(registry, net, msgspec.structs.replace(manifest, bar_ns=BAR_NS))
    trained = setup(
        forecast=ForecastParams(model="lstm", shrink="none", horizon_bars=horizon, retrain_every_ns=0),
        models_dir=str(registry),
    )
    configured = config("strategies.forecast_optimise:ForecastOptimise", setup=trained)
    inline = InlineWorker(configured)
    inline.seed(seed())
    async with running(configured) as test:
        assert test.of(WorkerUp)[0].model == inline.ready.model == f"lstm:{first}"
        for seq in (1, 2):
            mine = (await test.answer(ask(seq, clock=test.clock, price=100.0 + seq))).result
            expected = inline.decide(ask(seq, price=100.0 + seq)).result
            assert isinstance(mine, Targets)
            assert isinstance(expected, Targets)
            assert mine.forecast is not None
            assert expected.forecast is not None
            np.testing.assert_allclose(mine.forecast.mean, expected.forecast.mean, atol=1e-6)
            np.testing.assert_allclose(mine.weights, expected.weights, atol=1e-6)
        net, manifest = untrained(2, horizon=horizon)
        second = publish(registry, net, msgspec.structs.replace(manifest, bar_ns=BAR_NS))
        test.worker.reload_model()
        await test.ups(2)
        assert test.of(WorkerUp)[1].model == f"lstm:{second}"
        (registry / second / "model.safetensors").write_bytes(b"garbage")
        test.worker.reload_model()
        await test.ups(3)
        assert test.of(WorkerUp)[2].model == f"lstm:{second}"
        assert "model.safetensors" in test.worker.detail
        assert test.worker.starts == 1


async def test_killed_child_is_replaced(naughty: None) -> None:
    """SIGKILL between and during decisions: WorkerDown, a new child, a new WorkerUp, and every request answered."""
    async with running(config("naughty:Slow")) as test:
        await test.answer(ask(1, clock=test.clock))
        test.worker.decide(ask(2, clock=test.clock))
        victim = test.worker.pid
        assert victim > 1
        os.kill(victim, signal.SIGKILL)
        await test.ups(2)

        assert reason(test.of(Decided)[1]) is NoReason.WORKER_DOWN
        assert "-9" in test.of(WorkerDown)[0].detail
        assert isinstance((await test.answer(ask(1, clock=test.clock))).result, Targets)
        assert test.worker.starts == 2


async def test_hanging_strategy_misses_its_deadline(naughty: None) -> None:
    """A strategy that loops is answered for at the deadline and killed soon after; those who wait are answered too."""
    async with running(config("naughty:Hangs", hang_ns=10**8)) as test:
        first = test.worker.pid
        assert first > 1
        decided = await test.answer(ask(1, clock=test.clock, seconds=0.3))
        assert reason(decided) is NoReason.DEADLINE
        test.worker.decide(ask(2, clock=test.clock))
        await test.until(lambda: len(test.of(Decided)) == 2)
        assert reason(test.of(Decided)[1]) is NoReason.WORKER_DOWN
        await test.ups(2)

        assert [type(event) for event in test.events[:4]] == [WorkerUp, Decided, Decided, WorkerDown]
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("Raises", NoReason.STRATEGY_RAISED),
        ("Nan", NoReason.NOT_FINITE),
        ("Short", NoReason.STRATEGY_RAISED),
        ("Exits", NoReason.STRATEGY_RAISED),
    ],
)
async def test_bad_answers_are_contained(naughty: None, strategy: str, expected: NoReason) -> None:
    """What raises, is not finite or has the wrong shape is one line, and the child lives on."""
    async with running(config(f"naughty:{strategy}")) as test:
        for seq in (1, 2):
            assert reason(await test.answer(ask(seq, clock=test.clock))) is expected
        assert test.worker.starts == 1


async def test_newest_view_wins(naughty: None) -> None:
    """While one decision runs only the newest waits; it carries the bars of those it replaced, and all are answered."""
    async with running(config("naughty:Slow")) as test:
        for seq in (1, 2, 3, 4):
            test.worker.decide(ask(seq, clock=test.clock, price=1000.0 * seq))
        await test.until(lambda: len(test.of(Decided)) == 4)
        decided = {one.seq: one for one in test.of(Decided)}

        assert {reason(decided[seq]) for seq in (2, 3)} == {NoReason.DEADLINE}
        assert test.worker.superseded == 2
        assert weights(decided[1]) == pytest.approx((0.001,) * 4)
        assert weights(decided[4]) == pytest.approx((0.004,) * 4)


async def test_every_question_is_answered_exactly_once(naughty: None) -> None:
    """However often the child is killed in the middle of things, no question is lost and none answered twice."""
    rng = np.random.default_rng(5)
    test = Running(config("naughty:Slow"))
    task = asyncio.create_task(test.worker.run())
    asked = 0
    for _ in range(6):
        await test.ups(len(test.of(WorkerDown)) + 1)
        for _ in range(4):
            asked += 1
            test.worker.decide(ask(asked, clock=test.clock, seconds=0.2 if asked % 5 == 0 else PATIENCE_S))
            await asyncio.sleep(float(rng.uniform(0, 0.15)))
        victim = test.worker.pid
        if victim > 1:
            os.kill(victim, signal.SIGKILL)
            await test.downs(len(test.of(WorkerDown)) + 1)
    await test.until(lambda: len(test.of(Decided)) >= asked)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert sorted(one.seq for one in test.of(Decided)) == list(range(1, asked + 1))


async def test_late_answer_is_dropped_and_its_bars_are_kept(naughty: None) -> None:
    """A slow answer comes too late once: the child lives on, and the next window holds the bars of all views."""
    async with running(config("naughty:Slow", hang_ns=60 * 10**9)) as test:
        assert reason(await test.answer(ask(1, clock=test.clock, seconds=0.1))) is NoReason.DEADLINE
        test.worker.decide(ask(2, clock=test.clock, seconds=0.1, price=2000.0))
        test.worker.decide(ask(3, clock=test.clock, price=3000.0))
        test.worker.decide(ask(4, clock=test.clock, price=4000.0))
        await test.until(lambda: len(test.of(Decided)) == 4)
        decided = {one.seq: one for one in test.of(Decided)}

        assert [reason(decided[seq]) for seq in (1, 2, 3)] == [NoReason.DEADLINE] * 3
        assert weights(decided[4]) == pytest.approx((0.004,) * 4)
        assert (test.worker.starts, test.worker.late, test.worker.superseded) == (1, 1, 2)
        expired = msgspec.structs.replace(ask(5, clock=test.clock, price=5000.0), deadline_ns=1)
        assert reason(await test.answer(expired)) is NoReason.DEADLINE
        assert weights(await test.answer(ask(6, clock=test.clock, price=6000.0))) == pytest.approx((0.006,) * 4)
        assert test.worker.late == 1


async def test_clock_set_back_does_not_let_a_child_hang(naughty: None) -> None:
    """A deadline a day ahead of our clock counts from when it was asked, not from the clock."""
    async with running(config("naughty:Hangs", hang_ns=10**8)) as test:
        now = test.clock.now_ns() + 86_400 * 10**9
        asked = msgspec.structs.replace(ask(1), ts_ns=now, deadline_ns=now + 2 * 10**8)
        assert reason(await test.answer(asked)) is NoReason.DEADLINE


async def test_growing_child_is_replaced_between_decisions(naughty: None) -> None:
    """Beyond its resident size a child answers and is then replaced."""
    async with running(config(rss_bytes_max=1)) as test:
        assert weights(await test.answer(ask(1, clock=test.clock))) == (0.1,) * 4
        await test.ups(2)

        assert "grew" in test.of(WorkerDown)[0].detail


async def test_reload_announces_the_model() -> None:
    """A reload answers with another WorkerUp from the same child."""
    async with running(config("strategies.forecast_optimise:ForecastOptimise")) as test:
        test.worker.reload_model()
        await test.ups(2)
        assert test.worker.starts == 1
        assert not test.of(WorkerDown)


async def test_no_model_is_a_normal_answer(tmp_path: Path) -> None:
    """Without a model the worker is up, says so, and decides nothing."""
    nowhere = setup(forecast=ForecastParams(model="lstm"), models_dir=str(tmp_path))
    async with running(config("strategies.forecast_optimise:ForecastOptimise", setup=nowhere)) as test:
        assert test.of(WorkerUp)[0].model == ""
        assert test.worker.learns is True
        assert reason(await test.answer(ask(1, clock=test.clock))) is NoReason.NO_MODEL


async def test_child_inherits_one_descriptor_and_no_environment(
    naughty: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither our files nor our secrets reach the strategy; its libraries have one thread; Ctrl-C is not its business."""
    monkeypatch.setenv("SECRET", "hunter2")
    with (tmp_path / "open").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        async with running(config("naughty:Surroundings")) as test:
            os.kill(test.worker.pid, signal.SIGINT)
            seen = weights(await test.answer(ask(1, clock=test.clock)))
            assert test.worker.starts == 1

    assert seen == pytest.approx((0.04, 0.1, 0.0, 0.0))


async def test_strategy_that_exits_is_replaced(naughty: None) -> None:
    """Leaving the process is reported with its exit code."""
    async with running(config("naughty:Leaves")) as test:
        assert reason(await test.answer(ask(1, clock=test.clock))) is NoReason.WORKER_DOWN
        await test.downs(1)
        assert "code 7" in test.of(WorkerDown)[0].detail


async def test_child_that_never_gets_ready_is_given_up(naughty: None) -> None:
    """Start-up has its own limit."""
    test = Running(config("naughty:NeverReady", start_ns_max=3 * 10**8))
    task = asyncio.create_task(test.worker.run())
    await test.downs(1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert "not ready within 0.3 s" in test.of(WorkerDown)[0].detail
    assert test.worker.pid == 0


@pytest.mark.parametrize("spare", [0, 2], ids=["no socket", "no process"])
async def test_f55_a_machine_without_room_for_a_child_halts_nothing(naughty: None, spare: int) -> None:
    """It is a worker that is down: told each time, tried again and again, and answering once there is room."""
    test = Running(config())
    halted: list[str] = []
    supervisor = Supervisor(test.clock, lambda task, detail: halted.append(f"{task}: {detail}"))
    open_before = handles()
    with few_handles(spare):
        supervisor.trading("worker", test.worker.run)
        await test.downs(RESTARTS_MAX + 2)
        refused = await test.answer(ask(1, clock=test.clock))

    assert reason(refused) is NoReason.WORKER_DOWN
    assert {one.detail for one in test.of(WorkerDown)} == {"worker process could not be started: Too many open files"}
    assert handles() == open_before
    await test.ups(1)
    assert isinstance((await test.answer(ask(2, clock=test.clock))).result, Targets)
    await supervisor.stop()
    assert (halted, supervisor.restarts) == ([], {})


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 8, frame(Ready("m", 0, ""))[:4] + b"\xc1" * 99, frame(Answer(LOST, 1, ""))],
    ids=["length", "body", "unasked"],
)
async def test_child_that_speaks_nonsense_is_replaced(naughty: None, data: bytes) -> None:
    """Absurd lengths, broken messages and answers nobody asked for end the session."""
    async with running(config()) as test:
        link = test.worker._link
        assert link is not None
        link.data_received(data)
        await test.ups(2)
        assert len(test.of(WorkerDown)) == 1
        assert not test.of(Decided)


def test_child_dies_with_the_daemon(naughty: None) -> None:
    """SIGKILL of the daemon leaves no worker behind."""
    code = (
        "import asyncio, sys\n"
        "from daemon.edge.clock import Clock\n"
        "from daemon.edge.worker import Worker\n"
        "from daemon.domain.events import WorkerUp\n"
        "from daemon.edge.worker_wire import WorkerConfig\n"
        "import msgspec\n"
        "config = msgspec.json.decode(sys.argv[1].encode(), type=WorkerConfig)\n"
        "worker = Worker(lambda event: print(worker.pid, flush=True), Clock(), config)\n"
        "asyncio.run(worker.run())\n"
    )
    daemon = subprocess.Popen(
        [sys.executable, "-c", code, msgspec.json.encode(config("naughty:Hangs")).decode()],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert daemon.stdout is not None
    with daemon.stdout:
        child = int(daemon.stdout.readline())
    daemon.kill()
    daemon.wait()
    deadline = time.monotonic() + PATIENCE_S
    with suppress(FileNotFoundError, ProcessLookupError):  # gone between two looks
        while not Path(f"/proc/{child}/stat").read_text().split(") ")[1].startswith("Z"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("strategy", ["Unsendable", "Wrong"])
async def test_answers_that_are_no_targets_are_contained(naughty: None, strategy: str) -> None:
    """What is not ``Targets``, or cannot be sent, is one line."""
    async with running(config(f"naughty:{strategy}")) as test:
        assert reason(await test.answer(ask(1, clock=test.clock))) is NoReason.STRATEGY_RAISED
        assert test.worker.starts == 1


@pytest.mark.parametrize("spec", ["naughty:Broken", "naughty:Mute", "nowhere:Nothing", "naughty:Missing"])
async def test_unusable_strategy_is_reported_and_retried(naughty: None, spec: str) -> None:
    """A strategy that cannot start is a WorkerDown with one line, again and again with pauses."""
    test = Running(config(spec))
    task = asyncio.create_task(test.worker.run())
    await test.until(lambda: bool(test.of(WorkerDown)))
    test.worker.decide(ask(1, clock=test.clock))
    await test.until(lambda: bool(test.of(Decided)))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert spec in test.of(WorkerDown)[0].detail
    assert not test.of(WorkerUp)
    assert reason(test.of(Decided)[0]) is NoReason.WORKER_DOWN


# ------------------------------------------------------------- the same code without the process


def test_weights_beyond_limits_are_clipped(naughty: None) -> None:
    """Greedy weights end inside cap, budget and turnover, and the clipped assets are named."""
    inline = InlineWorker(config("naughty:Greedy"))
    inline.seed(seed())
    decided = inline.decide(ask(1))
    w = np.array(weights(decided))

    assert isinstance(decided.result, Targets)
    assert "clipped:BTC/USDT" in decided.result.binding
    assert inline.note == "weights beyond a limit were clipped: BTC/USDT, ETH/USDT, SOL/USDT, XRP/USDT"
    assert (w <= 0.3).all()
    assert np.maximum(w - (0.1, 0.0, 0.2, 0.0), 0).sum() <= 0.5 + 1e-9


def test_unseeded_or_misaligned_worker_does_not_decide(naughty: None) -> None:
    """Before a seed, for other symbols, or when the buffers end at another close there is no decision."""
    inline = InlineWorker(config())
    assert reason(inline.decide(ask(1))) is NoReason.NOT_READY
    inline.seed(seed())
    assert reason(inline.decide(msgspec.structs.replace(ask(1), bars=()))) is NoReason.NOT_READY
    other = msgspec.structs.replace(ask(1), symbols=SYMBOLS[::-1])
    assert reason(inline.decide(other)) is NoReason.NOT_READY


def test_missing_bars_become_empty_ones(naughty: None) -> None:
    """A symbol without a bar, and whole closes nobody sent, repeat the last close."""
    inline = InlineWorker(config("naughty:Window"))
    inline.seed(seed())
    inline.decide(ask(1, price=1000.0))
    only_btc = msgspec.structs.replace(ask(2, price=3000.0), bars=bars(2, 3000.0)[:1])
    assert weights(inline.decide(only_btc)) == pytest.approx((0.004, 0.002, 0.002, 0.002))
    skipped = ask(5, price=5000.0)
    assert weights(inline.decide(skipped)) == pytest.approx((0.008, 0.006, 0.006, 0.006))


def test_holes_in_a_seed_are_filled_as_appending_would() -> None:
    """A symbol that missed closes is seeded with empty bars in their place, up to the newest close of any."""
    bar_ns = 10
    table = np.array([[100.0, 1, 3, 1, 2, 5], [130.0, 4, 4, 4, 4, 1]])
    filled = without_holes(table, bar_ns=bar_ns, last_ns=140)

    assert filled.tolist() == [
        [100, 1, 3, 1, 2, 5], [110, 2, 2, 2, 2, 0], [120, 2, 2, 2, 2, 0], [130, 4, 4, 4, 4, 1], [140, 4, 4, 4, 4, 0],
    ]  # fmt: skip
    assert without_holes(table[:0], bar_ns=bar_ns, last_ns=140).size == 0


def test_outage_longer_than_the_buffer_starts_anew(naughty: None) -> None:
    """When no kept bar is within reach the window begins again; bars before a seed are not kept at all."""
    inline = InlineWorker(config("naughty:Window"))
    inline.append(bars(1))
    inline.seed(seed())
    later = ask(5_000, price=4000.0)
    assert weights(inline.decide(later)) == pytest.approx((0.004,) * 4)
    first = InlineWorker(config("naughty:Window"))
    first.seed(Seed(symbols=SYMBOLS, rows=(b"",) * 4, daily=(b"",) * 4, bar_ns=BAR_NS))
    assert weights(first.decide(ask(1, price=2000.0))) == pytest.approx((0.002,) * 4)


def test_new_daily_closes_replace_the_old_ones_with_and_without_a_question() -> None:
    """A question brings a day that has closed; so do the bars of one that is not asked any more."""
    worker = InlineWorker(config())
    worker.seed(seed())
    days = tuple(np.array([1.0, 2.0, 4.0]).tobytes() for _ in SYMBOLS)
    worker.append((), days)
    table = worker._daily

    assert table is not None
    assert table.tolist() == [[1.0] * len(SYMBOLS)] * 2
    worker.append(())
    assert worker._daily is table


def test_daily_returns_align_at_the_newest_day() -> None:
    """Shorter histories are unknown before they begin; absurd closes are unknown too; without any there is no table."""
    table = daily_returns([np.array([1.0, 2.0, 3.0]), np.array([4.0, 2.0]), np.array([]), np.array([1.0, 0.0, np.inf])])
    assert table is not None
    np.testing.assert_allclose(table, [[1.0, np.nan, np.nan, np.nan], [0.5, -0.5, np.nan, np.nan]])
    assert daily_returns([np.array([1.0]), np.array([])]) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("buy", NoReason.STRATEGY_RAISED),
        (Targets(SYMBOLS[::-1], (0.1,) * 4), NoReason.STRATEGY_RAISED),
        (Targets(SYMBOLS, (0.1,) * 3), NoReason.STRATEGY_RAISED),
        (Targets(SYMBOLS, (0.1, float("inf"), 0.1, 0.1)), NoReason.NOT_FINITE),
        (
            Targets(
                SYMBOLS,
                (0.1,) * 4,
                Forecast(SYMBOLS, 1, (float("nan"),) * 4, (0.0,) * 4, (1.0,) * 4, (0.0,) * 4, (0.0,) * 4, "m"),
            ),
            NoReason.NOT_FINITE,
        ),
        (NoDecision(NoReason.PAUSED, "by choice"), NoReason.PAUSED),
    ],
)
def test_containment(answer: object, expected: NoReason) -> None:
    """What is no decision becomes a refusal with its reason; a strategy's own refusal passes."""
    asked = ask(1)
    limits = limits_of(
        OptimizerParams(), w0=np.array(asked.weights), caps=np.array(asked.caps), frozen=np.zeros(4, dtype=np.bool_),
        turnover_left=0.5,
    )  # fmt: skip
    contained = contain(answer, asked, limits)
    assert isinstance(contained, NoDecision)
    assert contained.reason is expected


def test_repeated_bars_change_nothing(naughty: None) -> None:
    """Closed bars are immutable: a bar that comes twice is ignored."""
    inline = InlineWorker(config("naughty:Window"))
    inline.seed(seed())
    inline.decide(ask(1, price=1000.0))
    again = msgspec.structs.replace(ask(2, price=2000.0), bars=(*bars(1, 9.0), *bars(2, 2000.0)))
    assert weights(inline.decide(again)) == pytest.approx((0.003,) * 4)


def test_frames_survive_any_cut() -> None:
    """Messages come out whole however the bytes are cut; an absurd length is refused."""
    message = Ready("m", 1, "")
    stream = frame(message) * 3
    frames = Frames()
    bodies = [body for i in range(len(stream)) for body in frames.feed(stream[i : i + 1])]

    assert len(bodies) == 3
    with pytest.raises(ValueError, match="message of"):
        frames.feed(b"\xff\xff\xff\xff")
