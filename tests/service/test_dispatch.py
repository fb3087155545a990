"""Effects reach their ports; a port that fails loses no order, blocks no symbol and silences nothing behind it."""

import asyncio
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import pytest

from daemon.domain.errors import Transient
from daemon.domain.events import (
    Alert,
    Backfill,
    BarClosed,
    Booked,
    Cancel,
    CancelAll,
    Candle,
    Confirmed,
    ConfirmQuiet,
    Decide,
    Denied,
    Effect,
    Event,
    Fault,
    FetchBar,
    FetchTrades,
    History,
    Persist,
    Recorded,
    Repair,
    Resolve,
    Seed,
    StateChanged,
    Step,
    Submit,
    TradingState,
)
from daemon.domain.market import Bar, BarFlag
from daemon.domain.orders import Approved, OrderState, OrderUpdate
from daemon.edge.clock import Clock
from daemon.edge.supervisor import JOBS_MAX, Supervisor
from daemon.service import dispatch
from daemon.service.dispatch import Dispatcher, pause_s
from tests.core.driver import make_intent

BTC = "BTC/USDT"
BOOM = KeyError("boom")


def approved(client_id: str) -> Approved:
    """Return an approved order."""
    return Approved(make_intent(client_id=client_id, symbol=BTC), 1)


SUBMIT = Submit("d", (approved("a"), approved("b")), (), "{}")


class Ports:
    """Ledger, venue, market data and worker in one: answers well unless told to raise; writes down what was asked."""

    def __init__(self) -> None:
        """Answer well."""
        self.asked: list[str] = []
        self.raising: dict[str, list[Exception]] = {}
        self.durable = True
        self.left = [0]

    def _note(self, what: str) -> None:
        self.asked.append(what)
        waiting = self.raising.get(what.partition(" ")[0])
        if waiting:
            raise waiting.pop(0)

    async def commit(self, submit: Submit) -> bool:
        """Make durable."""
        self._note("commit")
        return self.durable

    def record(self, effect: Effect) -> None:
        """Queue a row."""
        self._note(f"record {type(effect).__name__}")

    async def send(self, one: Approved) -> None:
        """Send an order."""
        self._note(f"send {one.intent.client_id}")

    async def cancel(self, client_id: str, symbol: str) -> None:
        """Cancel an order."""
        self._note(f"cancel {client_id}")

    async def cancel_all(self) -> int:
        """Cancel all; say how many are left."""
        self._note("cancel_all")
        return self.left.pop(0)

    async def resolve(self, client_id: str, symbol: str, sent_ns: int) -> None:
        """Find out."""
        self._note(f"resolve {client_id}")

    async def trades(self, symbol: str, first: int, last: int) -> Repair:
        """Fetch trades."""
        self._note("trades")
        return Repair(symbol, first, last, (), ok=True, detail="", ts_ns=1)

    async def candle(self, symbol: str, open_ns: int, close_ns: int) -> Candle:
        """Fetch a candle."""
        self._note("candle")
        return Candle(symbol, open_ns, None, 1)

    async def history(self, symbol: str, *, bars: int) -> History:
        """Fetch history."""
        self._note("history")
        return History(symbol, (), (), -1, partial=False, ts_ns=1)

    async def confirm(self, symbol: str) -> Confirmed:
        """Ask for the newest id."""
        self._note("confirm")
        return Confirmed(symbol, 1, 1.0, ok=True, ts_ns=1)

    def decide(self, effect: Decide) -> None:
        """Ask the worker."""
        self._note("decide")

    def seed(self, effect: Seed) -> None:
        """Seed the worker."""
        self._note("seed")


class Rig:
    """A dispatcher between ports of ours and a list of events."""

    def __init__(self) -> None:
        """Plug everything in."""
        self.ports = Ports()
        self.events: list[Event] = []
        self.watched: list[Effect] = []
        self.stopping = False
        self.halts: list[str] = []
        clock = Clock()
        self.supervisor = Supervisor(clock, lambda task, _detail: self.halts.append(task))
        ports: Any = self.ports
        self.dispatch = Dispatcher(
            ledger=ports,
            venue=ports,
            market=ports,
            worker=ports,
            supervisor=self.supervisor,
            emit=self.events.append,
            clock=clock,
            watch=self.watched.append,
            stopping=lambda: self.stopping,
        )

    async def run(self, *effects: Effect) -> list[Event]:
        """Dispatch effects, wait for the jobs, return the events."""
        for effect in effects:
            self.dispatch(effect)
        while self.supervisor.jobs:
            await self.supervisor.settle(5.0)
        return self.events


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pauses between attempts be short."""
    monkeypatch.setattr(dispatch, "RETRY_S_MAX", 0.001)
    monkeypatch.setattr(dispatch, "REPAIR_PAUSE_S", 0.001)


def news(state: OrderState) -> OrderUpdate:
    """Return news of order a."""
    return OrderUpdate("a", BTC, state, "", Decimal(0), "", "send", 1)


STEP = Step("d", 1, "refused", 1, 1, 1, 1.0, 1.0, (BTC,), (), (), None, "", 1, 1, "why")
BAR = Bar(BTC, 0, 1, 1.0, 1.0, 1.0, 1.0, 1, 1, 1, 1, BarFlag.LIVE)
DECIDE = Decide(1, 1, 1, 1, (BTC,), (), (0.0,), (False,), (0.3,), 1.0, 1.0, 1.0, 9)


@pytest.mark.parametrize(
    ("effect", "asked"),
    [
        (BarClosed(BAR), []),
        (DECIDE, ["decide"]),
        (Seed((BTC,), (b"",), (b"",), 1), ["seed"]),
        (SUBMIT, ["commit", "send a", "send b"]),
        (Booked(None, None), ["record Booked"]),
        (Recorded(news(OrderState.ACKED)), ["record Recorded"]),
        (Persist("{}"), ["record Persist"]),
        (Cancel("a", BTC, "why"), ["cancel a"]),
        (CancelAll("why"), ["cancel_all"]),
        (Resolve("a", BTC, 1), ["resolve a"]),
        (FetchTrades(BTC, 1, 2), ["trades"]),
        (FetchBar(BTC, 1, 2), ["candle"]),
        (Backfill(BTC, 5, -1, -1), ["history"]),
        (ConfirmQuiet(BTC), ["confirm"]),
        (Alert("code", "detail", BTC, 1), []),
        (StateChanged(TradingState.HALTED, ("kill",), 1), []),
        (STEP, []),
    ],
)
async def test_every_effect_goes_to_its_port_and_is_seen(effect: Effect, asked: list[str]) -> None:
    """One port per effect, and every effect is shown to metrics and API."""
    rig = Rig()
    await rig.run(effect)

    assert rig.ports.asked == asked
    assert rig.watched == [effect]
    assert not rig.halts


async def test_answers_come_back_as_events() -> None:
    """What was fetched re-enters the engine."""
    events = await Rig().run(FetchTrades(BTC, 1, 2), FetchBar(BTC, 1, 2), Backfill(BTC, 5, -1, -1), ConfirmQuiet(BTC))

    assert {type(event) for event in events} == {Repair, Candle, History, Confirmed}


# ---------------------------------------------------------------------- orders


async def test_a_ledger_that_raises_denies_and_sends_nothing() -> None:
    """F48: whatever the ledger does, without durability nothing leaves and nothing stays reserved."""
    rig = Rig()
    rig.ports.raising["commit"] = [RuntimeError("cannot schedule new futures after shutdown")]
    events = await rig.run(SUBMIT)

    assert [type(event) for event in events] == [Denied]
    assert events[0].client_ids == ("a", "b")  # type: ignore[union-attr]
    assert rig.ports.asked == ["commit"]


async def test_a_commit_that_is_late_denies() -> None:
    """I2: no send without a durable intent."""
    rig = Rig()
    rig.ports.durable = False

    assert [type(event) for event in await rig.run(SUBMIT)] == [Denied]
    assert rig.ports.asked == ["commit"]


async def test_nothing_leaves_while_stopping() -> None:
    """F44: stop new orders first."""
    rig = Rig()
    rig.stopping = True

    assert [type(event) for event in await rig.run(SUBMIT)] == [Denied]
    assert rig.ports.asked == []


async def test_f44_a_stop_during_the_commit_denies_what_was_made_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durable and not sent: said at once, instead of a minute of searching at the next start."""
    rig = Rig()
    commit = rig.ports.commit

    async def slow(submit: Submit) -> bool:
        rig.stopping = True
        return await commit(submit)

    monkeypatch.setattr(rig.ports, "commit", slow)
    events = await rig.run(SUBMIT)

    assert [type(event) for event in events] == [Denied]
    assert events[0].client_ids == ("a", "b")  # type: ignore[union-attr]
    assert rig.ports.asked == ["commit"]


async def test_f44_a_stop_between_two_orders_denies_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has left; the second never does."""
    rig = Rig()
    send = rig.ports.send

    async def last(one: Approved) -> None:
        await send(one)
        rig.stopping = True

    monkeypatch.setattr(rig.ports, "send", last)
    events = await rig.run(SUBMIT)

    assert [event.client_ids for event in events if isinstance(event, Denied)] == [("b",)]
    assert rig.ports.asked == ["commit", "send a"]


async def test_a_send_that_raises_leaves_its_order_unknown_and_the_others_go() -> None:
    """The order may have left: UNKNOWN asks for evidence; it never stays SENDING and is never sent again."""
    rig = Rig()
    rig.ports.raising["send"] = [BOOM]
    events = await rig.run(SUBMIT)

    assert [(one.client_id, one.state) for one in events if isinstance(one, OrderUpdate)] == [("a", OrderState.UNKNOWN)]
    assert rig.ports.asked == ["commit", "send a", "send b"]


async def test_orders_that_cannot_be_started_are_denied() -> None:
    """A full house of jobs: neither the write nor the orders are lost silently."""
    rig = Rig()
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    for _ in range(JOBS_MAX):
        rig.supervisor.job("wait", wait())
    rig.dispatch(SUBMIT)
    assert isinstance(rig.events[0], Denied)
    release.set()
    await rig.run()

    release.clear()
    for _ in range(JOBS_MAX - 1):
        rig.supervisor.job("wait", wait())
    rig.dispatch(SUBMIT)
    for _ in range(5):
        await asyncio.sleep(0)
    release.set()
    await rig.run()
    assert [one.client_ids for one in rig.events[1:] if isinstance(one, Denied)] == [("a",), ("b",)]
    assert rig.ports.asked == ["commit"]


async def test_an_effect_that_fails_halts_and_those_behind_it_still_happen() -> None:
    """One broken port must not swallow the effects behind it."""
    rig = Rig()
    rig.ports.raising["record"] = [BOOM]
    events = await rig.run(Recorded(news(OrderState.ACKED)), Cancel("a", BTC, "why"))

    assert [type(event) for event in events] == [Fault]
    assert rig.ports.asked == ["record Recorded", "cancel a"]


async def test_a_submit_that_cannot_be_handed_on_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its orders would be SENDING for ever."""
    rig = Rig()

    def refuse(name: str, work: Coroutine[None, None, None]) -> None:
        work.close()
        raise BOOM

    monkeypatch.setattr(rig.supervisor, "job", refuse)
    rig.dispatch(SUBMIT)

    assert [type(event) for event in rig.events] == [Denied, Fault]


async def test_who_only_watches_cannot_disturb() -> None:
    """Metrics and API are outlets: what they raise is logged."""
    rig = Rig()

    def refuse(effect: Effect) -> None:
        raise BOOM

    rig.dispatch._watch = refuse
    await rig.run(Cancel("a", BTC, "why"))

    assert rig.ports.asked == ["cancel a"]
    assert rig.events == []


# ---------------------------------------------------------------------- retries


@pytest.mark.parametrize("error", [Transient("down"), BOOM])
async def test_history_is_fetched_until_it_comes(error: Exception) -> None:
    """Without history a symbol is dark: no failure ends the attempts."""
    rig = Rig()
    rig.ports.raising["history"] = [error, error]

    assert [type(event) for event in await rig.run(Backfill(BTC, 5, -1, -1))] == [History]
    assert rig.ports.asked == ["history"] * 3


async def test_a_repair_that_raises_is_answered_as_failed() -> None:
    """The engine waits for an answer before it may give a gap up."""
    rig = Rig()
    rig.ports.raising["trades"] = [BOOM]
    (answer,) = await rig.run(FetchTrades(BTC, 1, 2))

    assert isinstance(answer, Repair)
    assert not answer.ok


async def test_everything_is_cancelled_again_until_nothing_is_left() -> None:
    """F36: a cancel-all is not done while the venue shows an order, does not say, or fails."""
    rig = Rig()
    rig.ports.left = [2, -1, 0]
    rig.ports.raising["cancel_all"] = [BOOM]
    await rig.run(CancelAll("kill"))

    assert rig.ports.asked == ["cancel_all"] * 4


async def test_cancelling_ends_with_the_daemon() -> None:
    """A venue that never answers does not keep the daemon from stopping."""
    rig = Rig()
    rig.stopping = True
    rig.ports.left = [2]
    await rig.run(CancelAll("kill"))

    assert rig.ports.asked == ["cancel_all"]


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a week of vain attempts."""
    monkeypatch.setattr(dispatch, "RETRY_S_MAX", 15.0)
    pause: Callable[[int], float] = pause_s

    assert [pause(1), pause(2), pause(10_000)] == [0.5, 1.0, 15.0]
