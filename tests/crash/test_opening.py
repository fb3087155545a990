"""F43 in the middle of a first start: opening balances are several rows, and the process may end between any two."""

from decimal import Decimal
from pathlib import Path

import pytest

from daemon.domain.events import Booked
from daemon.edge.clock import Clock
from daemon.edge.database import LedgerConfig
from daemon.edge.ledger import SqlLedger
from daemon.edge.ownership import Ownership, opening_flows

D = Decimal
THERE = {"BTC": D("0.5"), "ETH": D(2), "USDT": D(1000)}


@pytest.mark.parametrize("adopt", ["none", "universe"])
@pytest.mark.parametrize("capital", ["all", "400", "30%"])
async def test_f43_an_opening_cut_short_is_completed(tmp_path: Path, capital: str, adopt: str) -> None:
    """After any number of rows the next start books the rest: the same total, and the same part of it is ours."""
    own = Ownership(quote="USDT", bases=("BTC", "ETH"), capital=capital, adopt=adopt)
    whole = opening_flows(THERE, own, ts_ns=1)
    for count in range(len(whole) + 1):
        config = LedgerConfig(
            folder=tmp_path / str(count), instance="main", mode="live", venue="binance", quote="USDT",
            lock_folder=tmp_path,
        )  # fmt: skip
        first = SqlLedger(config, clock=Clock())
        await first.open()
        for flow in whole[:count]:
            first.record(Booked(fill=None, flow=flow))
        await first.close()

        second = SqlLedger(config, clock=Clock())
        await second.open()
        assert second.first_start is (count < len(whole))
        if second.first_start:
            part = await second.books()
            missing = {asset: amount - part.total.get(asset, D(0)) for asset, amount in THERE.items()}
            for flow in opening_flows(missing, own, ts_ns=2, external=part.total.get("USDT", D(0)) - part.cash):
                second.record(Booked(fill=None, flow=flow))
            await second.flush(5)
        books = await second.books()
        await second.close()

        assert books.total == THERE
        assert books.cash == sum(flow.amount for flow in whole if flow.ours and flow.asset == "USDT")
        third = SqlLedger(config, clock=Clock())
        await third.open()
        assert not third.first_start
        await third.close()
