"""P9 at the venue: every order asks it to let the resting one of two own orders end."""

from decimal import Decimal

from daemon.edge.clock import Clock
from daemon.edge.lane import Lane, Quota
from daemon.edge.rest import make_exchange
from daemon.edge.venue_calls import VenueCalls
from tests.core.driver import make_intent
from tests.edge.foreign_kit import CLIENT_ID, loopback


async def test_p9_every_order_carries_self_trade_prevention() -> None:
    """The gate refuses the second of two that would meet; should one pass, the venue ends the first."""
    intent = make_intent(client_id=CLIENT_ID, qty=Decimal("0.5"))
    async with loopback() as server:
        server.says({"orderId": 1, "status": "NEW", "clientOrderId": CLIENT_ID})
        exchange = make_exchange("binance", rest_url=server.url, api_key="key", api_secret="secret")
        lane = Lane(exchange, quota=Quota(Clock()))
        lane.open()
        try:
            answer = await VenueCalls(send=lane, cancel=lane, read=lane, instruments={}).place(intent, lambda: "")
        finally:
            await lane.close()

    ((path, body),) = server.asked
    assert (answer.reply.status, path) == (200, "/api/v3/order")
    assert "selfTradePreventionMode=EXPIRE_MAKER" in body
    assert f"newClientOrderId={CLIENT_ID}" in body
