"""What people see of a running engine: the universe, and what has left it and is held still."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.domain.events import Link, Listed, Reconciled, Restored
from daemon.service.desk import Desk, Facts
from daemon.settings import load_settings
from tests.core.driver import START_NS, SYMBOLS, Driver, instrument, make_config

BTC, ETH = SYMBOLS


@pytest.fixture
def desk() -> Desk:
    """A desk over an engine whose universe is BTC and which holds one ETH worth 2,000 beside 2,000 of cash."""
    driver = Driver(make_config(universe=(BTC,), leaving=(ETH,)))
    now = driver.now_ns
    driver.send(Restored(2, Decimal(2_000), ((ETH, Decimal(1)),), ((ETH, 1_900.0),), (), "", now))
    driver.send(Listed(tuple(instrument(symbol) for symbol in SYMBOLS), now))
    driver.send(Link("user", up=True, detail="", ts_ns=now), Link("market", up=True, detail="", ts_ns=now))
    driver.ids[ETH] = 1000
    driver.send(*(driver.history(symbol, 20) for symbol in SYMBOLS))
    driver.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now))
    facts: Any = SimpleNamespace(now_ns=lambda: START_NS, external=list)
    return Desk(load_settings([], {}), driver.engine, cast("Facts", facts))


def test_p15_what_is_held_outside_the_universe_is_shown(desk: Desk) -> None:
    """Whoever looks at positions and stops sees all of them, with weights that add up."""
    rows = {row["symbol"]: row for row in desk.positions()}

    assert list(rows) == [BTC, ETH]
    assert rows[ETH]["qty"] == 1
    assert rows[ETH]["weight"] == pytest.approx(0.5)
    assert rows[BTC]["weight"] == 0.0
    assert rows[ETH]["stop"] == pytest.approx(1_900 * 0.92)
    assert desk.risk()["stops"] == {BTC: 0.0, ETH: rows[ETH]["stop"]}


def test_bars_are_kept_of_the_universe_only(desk: Desk) -> None:
    """Another pair has none, also one that is watched for what is held of it: that is no error of ours."""
    assert desk.bars(BTC, 5) is not None
    assert desk.bars(ETH, 5) is None
    assert desk.bars("NO/SUCH", 5) is None
