"""Whatever a strategy does, the engine gets a sound answer or one line.

What `test_worker.py` proves is not repeated here: raising, NaN, too few weights and `SystemExit` in the process
(`test_bad_answers_are_contained`), answers that are no `Targets` or cannot be sent
(`test_answers_that_are_no_targets_are_contained`), a strategy that hangs (`test_hanging_strategy_misses_its_deadline`),
ends its process (`test_strategy_that_exits_is_replaced`), grows (`test_growing_child_is_replaced_between_decisions`) or
cannot start (`test_unusable_strategy_is_reported_and_retried`).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.domain.events import Decided
from daemon.domain.signal import Forecast, NoDecision, NoReason, Targets
from daemon.edge.containment import contain
from daemon.edge.worker_child import InlineWorker
from daemon.edge.worker_wire import DETAIL_CHARS_MAX, FROM_CHILD, Answer, frame
from strategies.limits import Limits, limits_of
from strategies.params import OptimizerParams
from tests.edge.test_worker import SYMBOLS, ask, config, reason, running, seed, weights

MISCHIEF = """
import random
import numpy as np
from daemon.domain.signal import Targets

class Base:
    def decide(self, view, params):
        return Targets(symbols=view.symbols, weights=self.weights(view, params))

class WritesBars(Base):
    def weights(self, view, params):
        view.bars[:] = 1.0

class WritesDaily(Base):
    def weights(self, view, params):
        view.daily *= 0.0

class WritesFields(Base):
    def weights(self, view, params):
        view.caps = (1.0,) * len(view.symbols)

class ChangesParams(Base):
    def weights(self, view, params):
        params["nested"]["list"].append(1)
        params["calls"] = params.get("calls", 0) + 1
        return (params["calls"] / 10, len(params["nested"]["list"]) / 10, 0.0, 0.0)

class Draws(Base):
    def weights(self, view, params):
        return (random.random() / 9, np.random.random() / 9, np.random.default_rng(view.seq).random() / 9, 0.0)

class Interrupts(Base):
    def weights(self, view, params):
        if view.seq == 1:
            raise KeyboardInterrupt
        return (0.1,) * 4

class Prints(Base):
    def weights(self, view, params):
        print("bought the dip")
        return (0.1,) * 4

class Deep(Base):
    def weights(self, view, params):
        return self.weights(view, params)
"""
FORECAST = Forecast(SYMBOLS, 1, (0.0,) * 4, (0.0,) * 4, (1.0,) * 4, (0.0,) * 4, (0.0,) * 4, "mine")


@pytest.fixture
def mischief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of strategies that do what they should not, importable here and in the child."""
    (tmp_path / "mischief.py").write_text(MISCHIEF)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mischief", None)
    return tmp_path


def limits(**changes: object) -> Limits:
    """The limits of the question that `ask` puts."""
    asked = msgspec.structs.replace(ask(1), **changes)
    return limits_of(
        OptimizerParams(), w0=np.array(asked.weights), caps=np.array(asked.caps),
        frozen=np.array(asked.frozen, dtype=np.bool_), turnover_left=asked.turnover_left,
    )  # fmt: skip


def decided(strategy: str, *, times: int = 1, **changes: object) -> list[Decided]:
    """Decisions of a new inline worker, one after another."""
    inline = InlineWorker(config(strategy, **changes))
    inline.seed(seed())
    return [inline.decide(ask(seq)) for seq in range(1, times + 1)]


# ------------------------------------------------------------- the answer


@example(
    wanted=[9e307, 9e307, -1e308, -1e308], held=[0.1] * 4, frozen=[False] * 4, caps=[0.3] * 4, turnover_left=0.5
)  # whose sum is beyond any number
@given(
    wanted=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    held=st.lists(st.floats(0.0, 0.25), min_size=4, max_size=4),
    frozen=st.lists(st.booleans(), min_size=4, max_size=4),
    caps=st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0]), min_size=4, max_size=4),
    turnover_left=st.floats(0.0, 2.0),
)
def test_any_weights_end_inside_the_limits(
    wanted: list[float], held: list[float], frozen: list[bool], caps: list[float], turnover_left: float
) -> None:
    """P11: whatever finite numbers come, cap, cash, turnover and frozen symbols hold, and what was changed is named."""
    asked = msgspec.structs.replace(
        ask(1), weights=tuple(held), frozen=tuple(frozen), caps=tuple(caps), turnover_left=turnover_left
    )
    bounds = limits(weights=tuple(held), frozen=tuple(frozen), caps=tuple(caps), turnover_left=turnover_left)
    answer = contain(Targets(SYMBOLS, tuple(wanted)), asked, bounds)
    assert isinstance(answer, Targets)
    w, w0 = np.array(answer.weights), np.array(held)
    changed = {symbol for symbol, new, old in zip(SYMBOLS, answer.weights, wanted, strict=True) if new != old}

    assert (
        (w >= -1e-9) & (w <= np.where(np.array(caps) > 0.0, np.maximum(w0, np.minimum(caps, 0.3)), 0.0) + 1e-9)
    ).all()
    assert w.sum() <= 0.98 + 1e-9
    assert np.maximum(w - w0, 0.0).sum() <= min(turnover_left, 0.5) + 1e-9
    assert (w <= w0 + 1e-9)[np.array(frozen)].all()
    assert {one.removeprefix("clipped:") for one in answer.binding} <= changed
    assert all(
        f"clipped:{symbol}" in answer.binding
        for symbol, new, old in zip(SYMBOLS, answer.weights, wanted, strict=True)
        if abs(new - old) > 1e-9
    )
    assert answer.turnover == pytest.approx(np.abs(w - w0).sum())


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (Targets(SYMBOLS, cast("Any", ("0.1", "a lot", "0", "0"))), ValueError),
        (Targets(SYMBOLS, cast("Any", None)), "weights of shape ()"),
        (Targets(SYMBOLS, cast("Any", ((0.1,),) * 4)), "weights of shape (4, 1)"),
        (Targets(SYMBOLS, cast("Any", 0.1)), "weights of shape ()"),
        (Targets(cast("Any", list(SYMBOLS)), (0.1,) * 4), "other symbols than view.symbols"),
        (Targets(SYMBOLS[:3], (0.1,) * 3), "other symbols than view.symbols"),
        (Targets(SYMBOLS, (0.1,) * 4, status=cast("Any", 7)), "status, rung or binding that are not text"),
        (Targets(SYMBOLS, (0.1,) * 4, binding=cast("Any", (object(),))), "status, rung or binding that are not text"),
        (Targets(SYMBOLS, (0.1,) * 4, cast("Any", "up")), "a forecast that is not one"),
        (Targets(SYMBOLS, (0.1,) * 4, msgspec.structs.replace(FORECAST, symbols=SYMBOLS[::-1])), "a forecast that is not one"),
        (Targets(SYMBOLS, (0.1,) * 4, msgspec.structs.replace(FORECAST, mean=(0.0,) * 3)), "a forecast of 3, 4, 4, 4, 4 numbers"),
        (Targets(SYMBOLS, (0.1,) * 4, msgspec.structs.replace(FORECAST, skill=())), "a forecast of 4, 4, 4, 0, 4 numbers"),
        (Targets(SYMBOLS, (0.1,) * 4, msgspec.structs.replace(FORECAST, model=None)), "model or horizon_bars"),
        (NoDecision(cast("Any", "tired"), "of it"), "the reason 'tired', which is no NoReason: of it"),
    ],
)  # fmt: skip
def test_answers_of_another_form(answer: object, wanted: str | type[Exception]) -> None:
    """A line that says what was wrong; a forecast shorter than the universe would have raised in the engine."""
    if not isinstance(wanted, str):  # raised inside the worker's own containment, which makes the line of it
        with pytest.raises(wanted):
            contain(answer, ask(1), limits())
        return
    contained = contain(answer, ask(1), limits())

    assert isinstance(contained, NoDecision)
    assert contained.reason is NoReason.STRATEGY_RAISED
    assert wanted in contained.detail
    FROM_CHILD.decode(frame(Answer(Decided(1, contained, 0, 0, 0, 0), 0, ""))[4:])


@pytest.mark.parametrize("field", ["mean", "raw_mean", "scale", "skill", "interval_90"])
def test_a_forecast_is_finite_in_every_field(field: str) -> None:
    """P11: NaN in any of them is refused; the same forecast without it passes as it is."""
    bad = msgspec.structs.replace(FORECAST, **{field: (0.0, float("nan"), 0.0, 0.0)})
    refused = contain(Targets(SYMBOLS, (0.1,) * 4, bad), ask(1), limits())
    passed = contain(Targets(SYMBOLS, (0.1,) * 4, FORECAST), ask(1), limits())

    assert refused == NoDecision(NoReason.NOT_FINITE, "the forecast is not finite")
    assert isinstance(passed, Targets)
    assert passed.forecast == FORECAST


def test_a_refusal_is_one_bounded_line() -> None:
    """A strategy's own reasons pass; a page of text becomes a line."""
    short = NoDecision(NoReason.PAUSED, "the market is closed")
    assert contain(short, ask(1), limits()) is short
    long = contain(NoDecision(NoReason.PAUSED, "no\nway " * 1000), ask(1), limits())
    assert isinstance(long, NoDecision)
    assert long.detail.startswith("no way no way")
    assert len(long.detail) == DETAIL_CHARS_MAX
    odd = contain(NoDecision(NoReason.PAUSED, cast("Any", {"why": 1})), ask(1), limits())
    assert odd == NoDecision(NoReason.PAUSED, "{'why': 1}")


# ------------------------------------------------------------- what it does besides answering


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        ("WritesBars", "ValueError: assignment destination is read-only (mischief.py:12)"),
        ("WritesDaily", "read-only (mischief.py:16)"),
        ("WritesFields", "AttributeError: immutable type: 'View' (mischief.py:20)"),
    ],
)
def test_the_view_cannot_be_written(mischief: Path, strategy: str, wanted: str) -> None:
    """It is an error, each time, with its place; what the next view shows is untouched."""
    for one in decided(f"mischief:{strategy}", times=2):
        assert reason(one) is NoReason.STRATEGY_RAISED
        assert isinstance(one.result, NoDecision)
        assert wanted in one.result.detail


def test_changed_parameters_are_lost(mischief: Path) -> None:
    """Each decision gets the configuration's parameters, however deep the last one reached into them."""
    params: dict[str, object] = {"nested": {"list": [1]}}
    first, second = decided("mischief:ChangesParams", times=2, params=params)

    assert weights(first)[:2] == weights(second)[:2] == (0.1, 0.2)
    assert params == {"nested": {"list": [1]}}


async def test_global_chance_can_be_repeated(mischief: Path) -> None:
    """The generators of random and numpy begin at the configured seed, in the process as inline; another seed, other draws."""
    first = [weights(one) for one in decided("mischief:Draws", times=3)]
    again = [weights(one) for one in decided("mischief:Draws", times=3)]
    other = [weights(one) for one in decided("mischief:Draws", times=3, seed=7)]
    async with running(config("mischief:Draws")) as test:
        child = [weights(await test.answer(ask(seq, clock=test.clock))) for seq in (1, 2, 3)]

    assert first == again == child
    assert all(one[:2] != two[:2] and one[2] == two[2] for one, two in zip(first, other, strict=True))


async def test_an_interrupt_of_its_own_costs_the_process_only(mischief: Path) -> None:
    """KeyboardInterrupt ends the child, which is replaced and decides the next view."""
    async with running(config("mischief:Interrupts")) as test:
        assert reason(await test.answer(ask(1, clock=test.clock))) is NoReason.WORKER_DOWN
        await test.ups(2)
        assert weights(await test.answer(ask(2, clock=test.clock))) == pytest.approx((0.1,) * 4)


def test_endless_recursion_is_a_line(mischief: Path) -> None:
    """RecursionError is an error like others."""
    (one,) = decided("mischief:Deep")
    assert isinstance(one.result, NoDecision)
    assert one.result.detail.startswith("RecursionError: ")


def test_prints_go_to_standard_error(mischief: Path) -> None:
    """What a strategy prints cannot spoil the JSON on the daemon's standard output; it is not lost either."""
    (mischief / "a.toml").write_text(f'strategy = "mischief:Prints"\nstate_dir = "{mischief / "var"}"\n')
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "check", "--json", "-c", str(mischief / "a.toml")],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert json.loads(done.stdout) == {"ok": True, "problems": []}
    assert "bought the dip" in done.stderr


def test_prints_stay_out_of_a_commands_output(mischief: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The inline worker of backtest and replay: the same, and standard output is put back."""
    (mischief / "loud.py").write_text("print('imported')\nfrom mischief import *\n")
    decided("loud:Prints", times=2)
    print("the result")
    shown = capsys.readouterr()

    assert shown.out == "the result\n"
    assert shown.err == "imported\nbought the dip\nbought the dip\n"


@pytest.mark.parametrize("timings", ["None", "1 / 0 if 'ready' in self.__dict__ else None"])
def test_timings_of_another_form(mischief: Path, timings: str) -> None:
    """A strategy with a set-up of its own whose stopwatch is broken: a line, each time, and no end of the worker."""
    (mischief / "clocked.py").write_text(
        "from mischief import *\nfrom strategies.params import ModelInfo\n"
        "class Clocked(Prints):\n    timings = property(lambda self: "
        f"{timings})\n    def setup(self, setup, monotonic_ns):\n        self.ready = True\n        return ModelInfo('mine')\n"
    )
    sys.modules.pop("clocked", None)
    for one in decided("clocked:Clocked", times=2):
        assert isinstance(one.result, NoDecision)
        assert one.result.detail.startswith(("TypeError: timings is NoneType", "ZeroDivisionError"))
