"""`ballast reconcile`: the whole ledger against the whole account, however long both are."""

from pathlib import Path

import pytest

from daemon.domain.orders import Side
from daemon.edge import venue_calls
from daemon.edge.ledger_read import LedgerReader
from daemon.service import comparing
from daemon.service.comparing import compare_ledger
from tests.edge.venue_kit import PREFIX, Rig, rig

ORDERS = 9


async def traded(live: Rig) -> None:
    """Open the books, then buy and sell in two symbols; one more order ends without an execution."""
    await live.venue.reconcile()
    for number in range(ORDERS):
        symbol = ("BTC/USDT", "ETH/USDT")[number % 2]
        side, notional = ((Side.BUY, 100), (Side.SELL, 50))[number // 2 % 2]
        await live.submit(live.intent(symbol, side=side, notional=notional))
    await live.submit(live.resting("BTC/USDT"))
    await live.venue.cancel_all()
    assert await live.ledger.flush(5.0)


async def test_more_orders_than_one_page_reconcile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page is read: orders beyond the first were taken for missing, and the command ended with 3."""
    for module in (venue_calls, comparing):
        monkeypatch.setattr(module, "PAGE", 2)
        monkeypatch.setattr(module, "PAGES_MAX", 2)
    async with rig(tmp_path) as live:
        await traded(live)
        with LedgerReader(live.ledger.config.place) as reader:
            found = await compare_ledger(reader, live.venue.calls, ("BTC/USDT",), PREFIX)

    assert found.ok, found
    assert (found.orders, found.exchange_orders) == (ORDERS + 1, ORDERS + 1)
    assert found.fills == found.exchange_fills >= ORDERS


async def test_what_the_venue_has_forgotten_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders without an execution are archived after 90 days; one that did execute must be there."""
    async with rig(tmp_path) as live:
        await traded(live)
        gone = [one for one in live.sim.books.orders if not one.filled]
        for one in gone:
            live.sim.books.orders.remove(one)
        with LedgerReader(live.ledger.config.place) as reader:
            missed = await compare_ledger(reader, live.venue.calls, (), PREFIX)
            monkeypatch.setattr(comparing, "KEPT_NS", -1)
            later = await compare_ledger(reader, live.venue.calls, (), PREFIX)

    assert missed.strangers == tuple(one.client_id for one in gone)
    assert not missed.ok
    assert later.ok
