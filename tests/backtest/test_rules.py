"""Trading rules inferred from prices: the grid they lie on, and nothing that comes later."""

from decimal import Decimal

import numpy as np

from daemon.backtest.rules import SAMPLE, infer_rules
from tests.backtest.market import BTC, ETH, flat, panel


def test_tick_and_lot_follow_from_the_prices() -> None:
    """Two decimals and 40,000 a coin; four decimals and half a unit; no price at all: the finest grid."""
    rules = infer_rules(panel({BTC: flat(40_000.25, 3), ETH: flat(0.5031, 3), "XRP/USDT": [None, None, None]}), "USDT")

    assert (rules[BTC].tick, rules[BTC].step) == (Decimal("0.01"), Decimal("0.00001"))
    assert (rules[ETH].tick, rules[ETH].step) == (Decimal("0.0001"), Decimal(1))
    assert rules["XRP/USDT"].tick == Decimal("0.00000001")
    assert rules[BTC].min_notional == Decimal(5)


def test_what_comes_later_has_no_part_in_the_rules() -> None:
    """A pair that is worth a thousand times as much years later keeps its lot."""
    early = infer_rules(panel({BTC: flat(100.5, SAMPLE)}), "USDT")
    late = infer_rules(panel({BTC: [*flat(100.5, SAMPLE), *flat(99_999.123, 10)]}), "USDT")

    assert early == late
    assert np.isclose(float(early[BTC].step), 0.001)
