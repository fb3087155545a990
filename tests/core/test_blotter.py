"""The order lifecycle: news in any order and any number ends in the same place; money stays reserved until there is evidence."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.blotter import KEPT_DONE_MAX, RANK, Blotter, Working
from daemon.domain.orders import (
    TERMINAL,
    Approved,
    Cause,
    Fill,
    Intent,
    OrderRecord,
    OrderState,
    OrderUpdate,
    Side,
    Tif,
)

QTY = Decimal(10)
LIMIT = Decimal(100)


def intent(client_id: str = "a", side: Side = Side.BUY) -> Intent:
    """Return an order for ten units at 100."""
    return Intent(
        client_id=client_id,
        decision=f"d-{client_id}",
        leg=0,
        symbol="BTC/USDT",
        side=side,
        qty=QTY,
        limit=LIMIT,
        tif=Tif.IOC,
        cause=Cause.REBALANCE,
        exit=side is Side.SELL,
        reference=LIMIT,
        ts_ns=1,
        expires_ns=2,
    )


def sent(client_id: str = "a", side: Side = Side.BUY) -> Blotter:
    """Return a blotter with one order on its way."""
    blotter = Blotter()
    blotter.sent(Approved(intent(client_id, side), 1))
    return blotter


def news(state: OrderState, filled: str = "0", *, client_id: str = "a", ts_ns: int = 5) -> OrderUpdate:
    """Return the venue's word."""
    return OrderUpdate(client_id, "BTC/USDT", state, "7", Decimal(filled), "", "query", ts_ns)


def fill(qty: str, trade: str = "1", *, client_id: str = "a") -> Fill:
    """Return an execution."""
    return Fill(
        symbol="BTC/USDT",
        trade_id=trade,
        client_id=client_id,
        venue_id="7",
        side=Side.BUY,
        qty=Decimal(qty),
        price=LIMIT,
        fee=Decimal(0),
        fee_asset="USDT",
        maker=False,
        ts_event_ns=9,
        source="stream",
    )


def order(blotter: Blotter, client_id: str = "a") -> Working:
    """Return an order that must be there."""
    found = blotter.find(client_id)
    assert found is not None
    return found


def test_an_order_reserves_from_the_moment_it_is_approved() -> None:
    """I4: what is on its way counts."""
    assert sent().reserved(Side.BUY) == {"BTC/USDT": QTY * LIMIT}
    assert sent(side=Side.SELL).reserved(Side.SELL) == {"BTC/USDT": QTY}
    assert sent().reserved(Side.SELL) == {}


def test_news_of_strangers_is_nothing() -> None:
    """T3: what is not ours changes nothing."""
    blotter = sent()

    assert blotter.update(news(OrderState.ACKED, client_id="other")) is None
    assert blotter.fill(fill("1", client_id="other")) is None


def test_news_that_says_nothing_new_is_nothing() -> None:
    """F30: repetition is no news."""
    blotter = sent()

    assert blotter.update(news(OrderState.ACKED)) is not None
    assert blotter.update(news(OrderState.ACKED)) is None
    assert blotter.update(news(OrderState.UNKNOWN)) is None


def test_an_order_found_alive_after_never_placed_is_live_and_reserved_again() -> None:
    """F7 and F33: the venue shows what it had denied; the verdict falls and exposure is reserved."""
    for verdict in (OrderState.NEVER_PLACED, OrderState.REJECTED, OrderState.DENIED):
        blotter = sent()
        blotter.update(news(OrderState.UNKNOWN))
        blotter.update(news(verdict))
        assert not blotter.live

        assert blotter.update(news(OrderState.ACKED)) is not None
        assert blotter.reserved(Side.BUY) == {"BTC/USDT": QTY * LIMIT}
        assert not blotter.done


def test_never_placed_does_not_end_an_order_the_venue_has_shown() -> None:
    """F30: an older query that found nothing is outranked by the acknowledgement."""
    blotter = sent()
    blotter.update(news(OrderState.ACKED))

    assert blotter.update(news(OrderState.NEVER_PLACED)) is None
    assert order(blotter).live


def test_an_execution_disproves_a_verdict() -> None:
    """F7: a late fill brings an order back."""
    blotter = sent()
    blotter.update(news(OrderState.NEVER_PLACED))
    blotter.fill(fill("4"))

    assert order(blotter).state is OrderState.ACKED
    assert blotter.reserved(Side.BUY) == {"BTC/USDT": Decimal(6) * LIMIT}


def test_a_late_fill_of_a_cancelled_order_is_counted_and_stays_ended() -> None:
    """I8: terminal is absorbing; the fill books all the same."""
    blotter = sent()
    blotter.update(news(OrderState.CANCELED))
    blotter.fill(fill("4"))

    assert order(blotter).state is OrderState.CANCELED
    assert order(blotter).booked == Decimal(4)
    assert not blotter.live


def test_an_end_waits_for_the_fills_it_states() -> None:
    """I4: cancelled with 4 executed keeps 4 reserved until they are booked."""
    blotter = sent()
    blotter.update(news(OrderState.CANCELED, "4"))
    assert blotter.reserved(Side.BUY) == {"BTC/USDT": Decimal(4) * LIMIT}

    blotter.fill(fill("4"))

    assert blotter.reserved(Side.BUY) == {}
    assert list(blotter.done) == ["a"]


def test_restored_orders_without_evidence_are_unknown() -> None:
    """F43: SENDING at a crash is UNKNOWN at the next start; what was booked stays booked."""
    blotter = Blotter()
    states = (OrderState.SENDING, OrderState.RESOLVING, OrderState.ACKED)
    blotter.restore(
        tuple(OrderRecord(intent(str(place)), state, "", Decimal(3), 4) for place, state in enumerate(states))
    )

    assert [one.state for one in blotter.live.values()] == [OrderState.UNKNOWN, OrderState.UNKNOWN, OrderState.ACKED]
    assert blotter.unresolved == 2
    assert blotter.reserved(Side.BUY) == {"BTC/USDT": 3 * Decimal(7) * LIMIT}
    assert [one.intent.client_id for one in blotter.working("BTC/USDT")] == ["0", "1", "2"]


def test_only_the_newest_finished_orders_are_kept() -> None:
    """Memory is bounded."""
    blotter = Blotter()
    for number in range(KEPT_DONE_MAX + 2):
        blotter.sent(Approved(intent(str(number)), 1))
        blotter.update(news(OrderState.REJECTED, client_id=str(number)))

    assert len(blotter.done) == KEPT_DONE_MAX
    assert blotter.find("0") is None
    assert blotter.find("1") is None
    assert blotter.find("2") is not None


STATES = [state for state in OrderState if state not in {OrderState.PLANNED, OrderState.FILLED}]


@given(st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from(["0", "2", "5"])), max_size=8))
def test_states_only_move_forward_whatever_comes(said: list[tuple[OrderState, str]]) -> None:
    """I5: rank and stated quantity never fall; what is live stays reserved."""
    blotter = sent()
    rank, stated = RANK[OrderState.SENDING], Decimal(0)
    for state, filled in said:
        blotter.update(news(state, filled))
        now = order(blotter)
        assert RANK[now.state] >= rank
        assert now.stated >= stated
        rank, stated = RANK[now.state], now.stated
        assert (now.intent.client_id in blotter.live) is (now.state not in TERMINAL or now.booked < now.stated)
        assert (now.intent.client_id in blotter.done) is not now.live


@given(st.permutations([("ack", ""), ("fill", "1"), ("fill", "2"), ("fill", "3"), ("end", "")]), st.data())
def test_any_order_and_repetition_of_true_news_ends_in_the_same_place(
    true_news: list[tuple[str, str]], data: st.DataObject
) -> None:
    """F30 and F31: the story's end does not depend on how it is told (executions come once each: the account sees to it)."""
    blotter = sent()
    seen: set[str] = set()
    repeated = data.draw(st.lists(st.sampled_from(true_news), max_size=4))
    for kind, trade in [*true_news, *repeated]:
        if kind == "ack":
            blotter.update(news(OrderState.ACKED))
        elif kind == "end":
            blotter.update(news(OrderState.EXPIRED, "6"))
        elif trade not in seen:
            seen.add(trade)
            blotter.fill(fill("2", trade))

    end = order(blotter)
    assert (end.state, end.booked, end.stated) == (OrderState.EXPIRED, Decimal(6), Decimal(6))
    assert not blotter.live
    assert blotter.reserved(Side.BUY) == {}
