"""When the flight recorder's next segment begins, and what happens when the state cannot be had."""

import asyncio
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.core.market import Market
from daemon.core.run import Runner
from daemon.domain.events import Decide, Decided, Event, Submit
from daemon.domain.market import Ignored
from daemon.domain.orders import OrderState
from daemon.domain.signal import NoDecision, NoReason
from daemon.outlets.journal import EffectsHash, Journal, Opened, read_journal
from daemon.service import recording as module
from daemon.service.recording import Recording, picture_of, quiet
from tests.core.driver import Driver, only


class Bench:
    """A recorder with small segments beside a driven engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.driver = Driver().start()
        self.journal = Journal(folder, 10**8, start_ns=1, segment_bytes=4_096)
        self.runner = Runner(
            self.driver.engine, decode=lambda *_: Ignored("x"), recorder=self.journal, observe=lambda _: None
        )
        self.recording = Recording(self.journal, self.runner)

    def fill(self, frames: int) -> None:
        """Make the open segment grow by about so many times 65 bytes."""
        for number in range(frames):
            self.journal.add_frame(number, 0, os.urandom(60))
        self.journal.flush_now()

    @property
    def segments(self) -> int:
        """How many segments opened with a state."""
        self.journal.flush_now()
        return sum(isinstance(one, Opened) for one in read_journal(self.folder))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A recorder, an engine that trades."""
    made = Bench(tmp_path)
    yield made
    made.journal._close_segment()


def test_it_waits_for_a_full_segment_and_a_quiet_moment(bench: Bench) -> None:
    """Nothing happens before the segment is full, nor while a question is open; then the state is taken once."""
    bench.recording.look()
    bench.fill(10)
    bench.recording.look()
    assert bench.segments == 0

    ask = only(bench.driver.bar(), Decide)
    bench.fill(70)
    assert bench.journal.due
    assert bench.driver.engine.decisions.asked is ask
    bench.recording.look()
    assert bench.segments == 0

    nothing = NoDecision(NoReason.INFEASIBLE, "")
    bench.driver.send(Decided(ask.seq, nothing, 1, 1, 1, bench.driver.now_ns))
    assert bench.driver.engine.decisions.asked is None
    bench.recording.look()
    bench.recording.look()
    assert bench.segments == 1
    bench.recording.close()


def test_an_order_on_its_way_out_is_not_delayed(bench: Bench) -> None:
    """Quiet means: no question, no half-made decision, no order between the ledger and the venue."""
    engine = bench.driver.engine
    assert quiet(engine)
    (approved,) = only(bench.driver.decide(BTC=0.1), Submit).approved
    assert engine.state.blotter.live[approved.intent.client_id].state is OrderState.SENDING
    assert not quiet(engine)
    bench.driver.send(bench.driver.news(approved, OrderState.ACKED))
    assert quiet(engine)
    odd: Any = engine.decisions
    odd._work = (() for _ in "x")
    assert not quiet(engine)
    bench.journal.close()


def test_a_pressing_segment_does_not_wait(bench: Bench) -> None:
    """At one and a half times its size the next one begins, whatever is under way."""
    bench.driver.bar()
    for _ in range(100):
        if bench.journal.pressing:
            break
        bench.fill(20)
    bench.recording.look()

    assert bench.segments == 1
    bench.recording.close()


def test_a_state_that_cannot_be_kept_is_told_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder goes on; a person is told after many tries, and again only after it had worked."""
    monkeypatch.setattr(module, "TRIES_MAX", 3)
    odd: Any = bench.driver.engine.state
    odd.odd = object()
    bench.fill(70)
    with capture_logs() as logs:
        for _ in range(10):
            bench.recording.look()
        bench.recording.beat()

    assert [one["event"] for one in logs] == ["no snapshot"]
    assert "State.odd: a builtins.object cannot be kept" in logs[0]["error"]
    assert bench.segments == 0
    assert bench.journal.failure == ""
    del odd.odd
    bench.recording.look()
    assert bench.segments == 1
    bench.recording.close()


def test_a_state_that_cannot_be_written_is_told(bench: Bench) -> None:
    """What only the writing finds is told at the flush, once."""
    odd: Any = bench.driver.engine.state
    odd.odd = {Market("BTC/USDT", 1): 1}
    bench.fill(70)
    with capture_logs() as logs:
        bench.recording.look()
        for _ in range(3):
            asyncio.run(bench.recording.flush())

    assert [one["event"] for one in logs] == ["snapshot failed"]
    assert bench.segments == 0
    bench.recording.close()


def test_the_last_record_is_the_hash_of_all_effects(bench: Bench) -> None:
    """An orderly end can be checked to the last effect."""
    events: list[Event] = [*bench.driver.events[-3:]]
    for event in events:
        bench.runner.emit(event)
    bench.recording.close()

    assert list(read_journal(bench.folder))[-1] == EffectsHash(bench.runner.effects, bench.runner.digest)


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_left_as_it_was(bench: Bench, *, collects: bool) -> None:
    """Off while the state is copied, afterwards as before, also when the copy fails."""
    odd: Any = bench.driver.engine.state
    (gc.enable if collects else gc.disable)()
    try:
        picture_of(bench.driver.engine)
        assert gc.isenabled() is collects
        odd.odd = object()
        with pytest.raises(ValueError, match="odd"):
            picture_of(bench.driver.engine)
        assert gc.isenabled() is collects
    finally:
        gc.enable()
    bench.journal.close()
