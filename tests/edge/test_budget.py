"""A5: the request weight of a minute, and who may use how much of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.market import Malformed
from daemon.edge.budget import BULK, DATA_SHARE, MARGIN_S, MINUTE_NS, ORDER_SHARE, Budget, share_of
from daemon.edge.clock import Clock
from daemon.edge.lane import Quota
from daemon.edge.outcomes import Reply
from daemon.edge.rest import Rest, make_exchange
from daemon.wire.binance_rest import weight_per_minute
from tests.edge.foreign_kit import loopback

NOW_NS = 1_700_000_000 * 1_000_000_000 // MINUTE_NS * MINUTE_NS


class Hands(Clock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.ns = NOW_NS

    def now_ns(self) -> int:
        """Return what the hands show."""
        return self.ns

    def mono_ns(self) -> int:
        """Return the same."""
        return self.ns


def used(weight: int, limit: int = 6_000) -> tuple[Budget, Hands]:
    """Return a budget of which so much is used, thirty seconds into the minute."""
    clock = Hands()
    clock.ns += 30 * 1_000_000_000
    budget = Budget(clock)
    budget.limit = limit
    budget.see(weight)
    return budget, clock


@pytest.mark.parametrize(
    ("weight", "data", "orders"), [(0, True, True), (3_599, True, True), (3_600, False, True), (4_800, False, False)]
)
def test_a5_data_stops_first_then_orders(weight: int, data: bool, orders: bool) -> None:
    """60 % for data, 80 % for orders; everything else goes on whatever is used."""
    budget, _ = used(weight)

    assert (budget.wait_s(DATA_SHARE) == 0.0, budget.wait_s(ORDER_SHARE) == 0.0) == (data, orders)
    assert budget.wait_s(1.0) == 0.0
    assert budget.share == weight / 6_000


def test_a5_the_next_minute_is_a_new_one() -> None:
    """What was used counts until the minute ends, and a margin for clocks that differ."""
    budget, clock = used(5_000)

    assert budget.wait_s(DATA_SHARE) == 30.0 + MARGIN_S
    clock.ns += 31 * 1_000_000_000
    assert (budget.used, budget.wait_s(DATA_SHARE)) == (0, 0.0)


@given(weight=st.integers(0, 10**9))
def test_a5_without_a_limit_nothing_is_held_back(weight: int) -> None:
    """A venue that publishes none, or whose rules are not read yet."""
    budget, _ = used(weight, limit=0)

    assert (budget.wait_s(DATA_SHARE), budget.wait_s(ORDER_SHARE), budget.share) == (0.0, 0.0, None)


def test_a5_one_row_is_a_question_and_no_data() -> None:
    """Whether a symbol is silent must be known also when data has to wait: stops live on it."""
    assert share_of("publicGetAggTrades", {"limit": 1}) == 1.0
    assert share_of("publicGetExchangeInfo", {}) == share_of("publicGetTime", {}) == 1.0
    assert {share_of(endpoint, {"limit": 1000}) for endpoint in BULK} == {DATA_SHARE}


def test_a5_the_quota_hears_the_header() -> None:
    """X-MBX-USED-WEIGHT-1M of any answer, in any spelling."""
    quota = Quota(Hands())
    quota.see(Reply(200, "{}", {"x-mbx-used-weight-1m": "4321"}))

    assert quota.weight_used == quota.budget.used == 4321


@pytest.mark.parametrize(
    ("limits", "weight"),
    [
        ([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}], 6000),
        ([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 5, "limit": 6000}], 0),
        ([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": "6000"}], 0),
        ([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": -1}], 0),
        ([{"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100}], 0),
        (["x", None], 0),
        (None, 0),
    ],
)
def test_a5_the_limit_is_read_from_the_rules(limits: object, weight: int) -> None:
    """exchangeInfo publishes it; what it does not say clearly is no limit."""
    assert weight_per_minute({"rateLimits": limits}) == weight
    assert weight_per_minute([]) == 0


async def test_a5_data_waits_and_a_question_does_not() -> None:
    """Through real ccxt: at 60 % history is not asked for before the next minute, the newest trade is."""
    clock = Hands()
    quota = Quota(clock)
    quota.budget.limit = 6_000
    waits: list[float] = []

    class Noted(Budget):
        """Notes who would wait, and lets the minute pass."""

        async def wait(self, share: float) -> None:
            """Move the clock instead of sleeping."""
            if left := self.wait_s(share):
                waits.append(left)
                clock.ns += int(left * 1e9)

    quota.budget = Noted(clock)
    quota.budget.limit = 6_000

    def rows(answer: object) -> list[Any] | Malformed:
        return answer if isinstance(answer, list) else []

    async with loopback() as server:
        server.says(json.dumps([]), X_MBX_USED_WEIGHT_1M="3600")
        exchange = make_exchange("binance", rest_url=server.url)
        rest = Rest(exchange, clock, quota=quota)
        try:
            await rest.ask("publicGetAggTrades", {"symbol": "BTCUSDT", "limit": 1}, rows)
            await rest.ask("publicGetAggTrades", {"symbol": "BTCUSDT", "limit": 1}, rows)
            before = list(waits)
            await rest.ask("publicGetKlines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 1000}, rows)
        finally:
            await exchange.close()

    assert before == []
    assert waits == [60.0 + MARGIN_S]
    assert len(server.asked) == 3
