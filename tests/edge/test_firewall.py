"""A page of a web firewall instead of the venue's own answer (F10)."""

import pytest

from daemon.core.engine import FIREWALL as TOLD
from daemon.core.engine import Engine
from daemon.domain.events import Alert, Event, Link
from daemon.edge.clock import Clock
from daemon.edge.keywatch import FIREWALL, KeyWatch
from daemon.edge.outcomes import Reply
from tests.core.driver import make_config

PAGE = "<html><title>Attention Required!</title></html>"


@pytest.mark.parametrize(("headers", "least", "most"), [({}, 9.0, 10.0), ({"Retry-After": "40"}, 39.0, 40.0)])
def test_f10_a_firewalls_page_means_quiet_and_is_told(headers: dict[str, str], least: float, most: float) -> None:
    """Every lane waits, as after a 429, and an event says why."""
    told: list[Event] = []
    watch = KeyWatch(Clock(), told.append)
    watch.see(Reply(403, PAGE, headers))

    assert least < watch.wait_s <= most
    assert [(one.feed, one.up) for one in told if isinstance(one, Link)] == [(FIREWALL, False)]
    assert "Attention Required" in str(told[0])


@pytest.mark.parametrize("reply", [Reply(403, '{"code":-2015,"msg":"x"}'), Reply(404, PAGE), Reply()])
def test_f10_what_the_venue_itself_says_is_no_firewall(reply: Reply) -> None:
    """A 403 with a code is the venue's own word."""
    told: list[Event] = []
    watch = KeyWatch(Clock(), told.append)
    watch.see(reply)

    assert watch.wait_s == 0
    assert told == []


def test_f10_the_engine_raises_an_alert() -> None:
    """An alert; the state and the links shown stay as they were."""
    engine = Engine(make_config())
    links = dict(engine.state.links)
    effects = engine.process(Link(TOLD, up=False, detail="403 and a page", ts_ns=1))

    assert [effect.code for effect in effects if isinstance(effect, Alert)] == ["firewall"]
    assert engine.state.links == links
    assert FIREWALL == TOLD
