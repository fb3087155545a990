from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.events import Event
from daemon.domain.orders import TERMINAL, Fill, OrderRecord, OrderState, OrderUpdate, Side, Tif
from daemon.edge.tracker import Tracker, later
from tests.core.driver import make_intent

D = Decimal
INTENT = make_intent(qty=D(10), tif=Tif.GTC)


def news(state: OrderState, filled: int = 0, source: str = "stream", venue_id: str = "7") -> OrderUpdate:
    """Return news about the order."""
    return OrderUpdate(
        client_id="b1",
        symbol="BTC/USDT",
        state=state,
        venue_id=venue_id,
        filled=D(filled),
        code="",
        source=source,
        ts_ns=5,
    )


def fill(trade: int, qty: int) -> Fill:
    """Return an execution of the order."""
    return Fill(
        symbol="BTC/USDT", trade_id=str(trade), client_id="b1", venue_id="7", side=Side.BUY, qty=D(qty), price=D(100),
        fee=D(0), fee_asset="BTC", maker=False, ts_event_ns=5, source="stream",
    )  # fmt: skip


HISTORY: tuple[OrderUpdate | Fill, ...] = (
    news(OrderState.UNKNOWN, source="send"),
    news(OrderState.RESOLVING, source="query"),
    news(OrderState.ACKED),
    fill(1, 2),
    news(OrderState.ACKED, 2),
    fill(2, 3),
    news(OrderState.ACKED, 5),
    news(OrderState.CANCELED, 5),
)
"""What really happened: placed, filled in part, cancelled."""


@given(st.permutations(HISTORY), st.lists(st.sampled_from(HISTORY), max_size=8))
def test_any_order_of_arrival_ends_the_same(order: list[OrderUpdate | Fill], again: list[OrderUpdate | Fill]) -> None:
    """Late, early and repeated news: cancelled with 5 filled, each execution once, no step backwards (F29-F31)."""
    events: list[Event] = []
    tracker = Tracker(events.append)
    tracker.add(INTENT)
    for one in [*order, *again]:
        if isinstance(one, Fill):
            tracker.execution(one)
        else:
            tracker.report(one)
    known = tracker.find("b1")

    assert known is not None
    assert (known.state, known.stated, known.booked) == (OrderState.CANCELED, D(5), D(5))
    assert known.settled
    assert tracker.live == []
    passed = [event for event in events if isinstance(event, Fill)]
    assert sorted(event.trade_id for event in passed) == ["1", "2"]
    ends = [event.state for event in events if isinstance(event, OrderUpdate) and event.state in TERMINAL]
    assert ends == [OrderState.CANCELED]


def test_missing_executions_keep_an_order_alive() -> None:
    """A terminal order is not done before its executions add up to what the venue stated."""
    tracker = Tracker(lambda _event: None)
    order = tracker.add(INTENT)
    tracker.report(news(OrderState.FILLED, 10))
    assert [one.client_id for one in tracker.live] == ["b1"]
    assert order.short
    tracker.execution(fill(1, 10))

    assert tracker.live == []
    assert tracker.find("b1") is order
    assert tracker.find_venue_id("BTC/USDT", "7") is order


@given(
    st.sampled_from(
        [news(OrderState.ACKED), news(OrderState.UNKNOWN), news(OrderState.RESOLVING, 1), fill(1, 2), fill(1, 10)]
    ),
    st.sampled_from([OrderState.NEVER_PLACED, OrderState.DENIED]),
    st.booleans(),
)
def test_i8_what_the_venue_has_shown_was_placed(shown: OrderUpdate | Fill, absent: OrderState, again: bool) -> None:
    """An order with an id, an acknowledgement or an execution is never called absent, whatever a search concludes late."""
    events: list[Event] = []
    tracker = Tracker(events.append)
    tracker.add(INTENT)
    tracker.report(news(OrderState.UNKNOWN, source="send", venue_id=""))
    for one in [shown] * (1 + again):
        if isinstance(one, Fill):
            tracker.execution(one)
        else:
            tracker.report(one)
    before, count = tracker.find("b1"), len(events)
    assert before is not None
    state = before.state

    assert not tracker.report(news(absent, source="query", venue_id=""))
    assert (before.state, len(events)) == (state, count)


@given(st.sampled_from([OrderState.NEVER_PLACED, OrderState.DENIED]))
def test_what_the_venue_never_showed_may_be_absent(absent: OrderState) -> None:
    """The counterpart: without any sign of it the verdict stands."""
    events: list[Event] = []
    tracker = Tracker(events.append)
    order = tracker.add(INTENT)
    tracker.report(news(OrderState.UNKNOWN, source="send", venue_id=""))

    assert tracker.report(news(absent, source="query", venue_id=""))
    assert order.state is absent
    assert order.settled


def test_a_rejection_of_an_acknowledged_order_ends_it_only_as_the_venue_shows_it() -> None:
    """The engine's books let no rejection end what was alive: the venue's word is an end of another name, an answer is none."""
    events: list[Event] = []
    tracker = Tracker(events.append)
    order = tracker.add(INTENT)
    tracker.report(news(OrderState.ACKED))

    assert not tracker.report(news(OrderState.REJECTED, source="send"))
    assert order.state is OrderState.ACKED
    assert tracker.report(news(OrderState.REJECTED, source="query"))
    assert order.settled
    last = events[-1]
    assert isinstance(last, OrderUpdate)
    assert (last.state, last.code) == (OrderState.EXPIRED, "REJECTED")


def test_a_rejection_is_one_where_nothing_was_alive() -> None:
    """The counterpart."""
    events: list[Event] = []
    tracker = Tracker(events.append)
    order = tracker.add(INTENT)

    assert tracker.report(news(OrderState.REJECTED, source="query"))
    assert order.state is OrderState.REJECTED


def test_late_evidence_overturns_never_placed() -> None:
    """The venue shows the order after all; a mere repetition of doubt changes nothing (F7)."""
    assert later(OrderState.NEVER_PLACED, OrderState.ACKED) is OrderState.ACKED
    assert later(OrderState.NEVER_PLACED, OrderState.FILLED) is OrderState.FILLED
    assert later(OrderState.NEVER_PLACED, OrderState.UNKNOWN) is OrderState.NEVER_PLACED
    assert later(OrderState.FILLED, OrderState.ACKED) is OrderState.FILLED
    assert later(OrderState.CANCELED, OrderState.FILLED) is OrderState.CANCELED
    assert later(OrderState.ACKED, OrderState.UNKNOWN) is OrderState.ACKED
    assert later(OrderState.UNKNOWN, OrderState.RESOLVING) is OrderState.RESOLVING


def test_news_of_strangers_is_not_passed_on() -> None:
    """What is not ours never reaches the engine from here."""
    events: list[Event] = []
    tracker = Tracker(events.append)

    assert not tracker.report(news(OrderState.ACKED))
    assert events == []


def test_restored_orders_count_what_was_booked() -> None:
    """After a restart the missing part is known to be missing once the venue states more."""
    tracker = Tracker(lambda _event: None)
    record = OrderRecord(intent=INTENT, state=OrderState.UNKNOWN, venue_id="7", filled=D(2), updated_ns=3)
    tracker.restore((record,))
    tracker.report(news(OrderState.FILLED, 10))
    order = tracker.find("b1")

    assert order is not None
    assert (order.booked, order.stated, order.short) == (D(2), D(10), True)
