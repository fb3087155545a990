"""A3: the dead-man switch at the venue, through ccxt's own classes on loopback."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import ccxt.async_support as ccxt
import pytest

from daemon.core.engine import Engine
from daemon.domain.events import Alert, Event, Link
from daemon.edge.clock import Clock
from daemon.edge.deadman import REFRESH_S, TIMEOUT_S, DeadMan, has_switch
from daemon.edge.lane import Lane, Quota
from tests.core.driver import make_config
from tests.edge.foreign_kit import SECRET, Loopback, exchange_at, loopback
from tests.edge.venue_kit import until

ACCEPTED = {
    "kraken": {"error": [], "result": {"currentTime": "2026-01-01T00:00:00Z", "triggerTime": "2026-01-01T00:01:00Z"}},
    "okx": {"code": "0", "msg": "", "data": [{"triggerTime": "1587971460", "ts": "1587971400"}]},
    "bybit": {"retCode": 0, "retMsg": "success"},
}
REFUSED = {
    "kraken": {"error": ["EGeneral:Internal error"]},
    "okx": {"code": "50026", "msg": "System error", "data": []},
    "bybit": {"retCode": 10016, "retMsg": "Server error."},
}
PATHS = {
    "kraken": "/0/private/CancelAllOrdersAfter",
    "okx": "/api/v5/trade/cancel-all-after",
    "bybit": "/v5/order/disconnected-cancel-all",
}


def seconds(venue: str, body: str) -> float:
    """Return the time that a request asked for."""
    if venue == "kraken":
        return float(parse_qs(body)["timeout"][0])
    asked = json.loads(body)
    return float(asked["timeOut"] if venue == "okx" else asked["timeWindow"])


@dataclass
class Switch:
    """A dead man on a loopback venue: what it emitted, and what others have resting."""

    venue: str
    server: Loopback
    man: DeadMan
    task: asyncio.Task[None]
    events: list[Event] = field(default_factory=list[Event])
    others: int = 0
    killed: bool = False

    @property
    def asked(self) -> list[float]:
        """Return the times asked for so far, seconds."""
        return [seconds(self.venue, body) for path, body in self.server.asked if path == PATHS[self.venue]]

    @property
    def links(self) -> list[bool]:
        """Return what the engine was told."""
        return [event.up for event in self.events if isinstance(event, Link) and event.feed == "deadman"]

    async def stop(self) -> None:
        """Stop as the supervisor does."""
        self.task.cancel()
        await asyncio.wait({self.task})


@asynccontextmanager
async def switch(venue: str, answer: object, *, fault: str = "") -> AsyncGenerator[Switch]:
    """Run a dead man that is in a hurry; with a ``fault`` it is how the answer goes wrong."""
    async with loopback() as server:
        if fault:
            server.breaks(fault, answer)
        else:
            server.says(answer)
        lane = Lane(exchange_at(venue, server.url), quota=Quota(Clock()), secrets=(SECRET,))
        events: list[Event] = []
        man = DeadMan(
            lane,
            emit=events.append,
            clock=Clock(),
            others=lambda: made.others,
            leave_armed=lambda: made.killed,
            refresh_s=(0.01, 0.02),
        )
        made = Switch(venue, server, man, asyncio.get_running_loop().create_task(man.run()), events)
        try:
            yield made
        finally:
            await made.stop()


@pytest.mark.parametrize("venue", ["kraken", "okx", "bybit"])
async def test_it_is_wound_up_again_and_again(venue: str) -> None:
    """A3: 60 s, refreshed while the daemon lives, on the account's spot orders."""
    async with switch(venue, ACCEPTED[venue]) as it:
        await until(lambda: len(it.asked) >= 3)
        armed, body = it.man.armed, it.server.asked[0][1]

    assert armed
    assert set(it.asked[:3]) == {TIMEOUT_S}
    assert it.links == []
    assert venue != "bybit" or json.loads(body)["product"] == "SPOT"


@pytest.mark.parametrize("venue", ["kraken", "okx"])
async def test_a_clean_stop_disarms_it(venue: str) -> None:
    """A3: the last word of a clean stop is 0: what rests is the operator's business again."""
    async with switch(venue, ACCEPTED[venue]) as it:
        await until(lambda: it.man.armed)
        await it.stop()

        assert it.asked[-1] == 0.0
        assert not it.man.armed


async def test_bybit_has_no_way_to_turn_it_off() -> None:
    """Bybit takes 3 to 300 s only: nothing is sent that it would refuse."""
    async with switch("bybit", ACCEPTED["bybit"]) as it:
        await until(lambda: it.man.armed)
        await it.stop()

        assert 0.0 not in it.asked


async def test_a_stop_in_the_middle_of_a_kill_leaves_it_armed() -> None:
    """A1, A3: the timer may be the last one to see to the cancels."""
    async with switch("kraken", ACCEPTED["kraken"]) as it:
        await until(lambda: it.man.armed)
        it.killed = True
        await it.stop()

        assert 0.0 not in it.asked
        assert it.man.armed


@pytest.mark.parametrize("venue", ["kraken", "okx", "bybit"])
async def test_a_failing_refresh_is_told_once_and_so_is_its_end(venue: str) -> None:
    """A6: a refusal raises the alert; it goes on trying, and says when it works again."""
    async with switch(venue, REFUSED[venue]) as it:
        await until(lambda: len(it.asked) >= 3)
        refused = list(it.links)
        it.server.says(ACCEPTED[venue])
        await until(lambda: len(it.links) == 2)

    assert refused == [False]
    assert it.links == [False, True]


@pytest.mark.parametrize("body", ["", "{}", "[]", "<html>", '{"error": ['])
async def test_an_answer_without_content_confirms_nothing(body: str) -> None:
    """F5: ccxt makes nothing of an empty 200; we do."""
    async with switch("kraken", body) as it:
        await until(lambda: it.links)
        armed = it.man.armed

    assert it.links[0] is False
    assert not armed


@pytest.mark.parametrize("end", ["others", "stop"])
async def test_what_may_be_armed_is_disarmed(end: str) -> None:
    """F3: the timer may run without our having heard so: it is turned off before it hits others, and at the end."""
    async with switch("okx", ACCEPTED["okx"], fault="cut") as it:
        await until(lambda: it.links)
        assert not it.man.armed
        it.server.says(ACCEPTED["okx"])
        if end == "others":
            it.others = 1
            await until(lambda: 0.0 in it.asked)
        else:
            await it.stop()

        assert it.asked[-1] == 0.0


@pytest.mark.parametrize("fault", ["reset", "cut"])
async def test_a_lost_answer_is_a_failure(fault: str) -> None:
    """F3, F4: without the venue's word nobody is protected."""
    async with switch("okx", ACCEPTED["okx"]) as it:
        await until(lambda: it.man.armed)
        it.server.breaks(fault, ACCEPTED["okx"])
        await until(lambda: it.links)

    assert it.links[0] is False


async def test_a_ban_is_a_failure_and_its_end_is_noticed() -> None:
    """F9, A3: while the venue wants quiet nothing is sent and nobody is protected: that is told, not waited out in silence."""
    async with loopback() as server:
        server.says(ACCEPTED["kraken"])
        quota = Quota(Clock(), patience_s=0.01)
        quota.pause(0.3)
        lane = Lane(exchange_at("kraken", server.url), quota=quota, secrets=(SECRET,))
        events: list[Event] = []
        man = DeadMan(lane, emit=events.append, clock=Clock(), refresh_s=(0.01, 0.02))
        task = asyncio.get_running_loop().create_task(man.run())
        await until(lambda: events)
        asked, told = len(server.asked), events[0]
        await until(lambda: man.armed)
        task.cancel()
        await asyncio.wait({task})

    assert isinstance(told, Link)
    assert (asked, told.up) == (0, False)
    assert "send nothing" in told.detail


async def test_orders_of_others_are_never_cancelled_by_it() -> None:
    """T3: the venue's timer knows no client ids, so it is off while somebody else's orders rest, and a person is told."""
    async with switch("kraken", ACCEPTED["kraken"]) as it:
        await until(lambda: it.man.armed)
        it.others = 2
        await until(lambda: not it.man.armed)
        told = [event.detail for event in it.events if isinstance(event, Link)]
        it.others = 0
        await until(lambda: it.man.armed)

    assert 0.0 in it.asked
    assert "2 open orders that are not ours" in told[0]
    assert it.links == [False, True]


def test_the_engine_raises_the_alert_and_trades_on() -> None:
    """A3: losing the switch is an alert, not a halt: it protects against us being gone, and we are not."""
    engine = Engine(make_config())
    before = engine.state.trading
    effects = engine.process(Link("deadman", up=False, detail="no answer within 10 s", ts_ns=1))

    assert [effect.code for effect in effects if isinstance(effect, Alert)] == ["dead_man_down"]
    assert engine.state.trading is before
    assert not [one for one in engine.process(Link("deadman", up=True, detail="", ts_ns=2)) if isinstance(one, Alert)]


def test_who_has_one() -> None:
    """A3: ccxt says who has a switch; on Binance Spot and Coinbase the watchdog process stands in."""
    have = {venue for venue in ("binance", "coinbase", "kraken", "bybit", "okx") if has_switch(getattr(ccxt, venue)())}

    assert have == {"kraken", "bybit", "okx"}
    assert 15.0 <= REFRESH_S[0] < REFRESH_S[1] <= 20.0
    assert REFRESH_S[1] * 3 <= TIMEOUT_S
