"""Trading rules for a backtest: given in a file, or inferred from the prices themselves."""

from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from daemon.backtest.history import Panel
from daemon.domain.market import Instrument

PLACES_MAX: Final = 8
SAMPLE: Final = 5_000
"""Closes looked at: a pair's first ones, so that what comes later has no part in its rules."""
LOT_VALUE: Final = 1.0
"""Worth of one lot at the highest of these prices, at most, in quote currency: as large venues set it."""
MIN_NOTIONAL: Final = Decimal(5)
"""Binance's smallest order in USDT pairs."""


def infer_rules(panel: Panel, quote: str) -> dict[str, Instrument]:
    """Return trading rules per symbol: the tick from the digits of its first prices, the lot from the highest of them.

    A symbol without any price gets the finest grid.
    """
    return {symbol: _rules(symbol, quote, panel.values[:, at, 3]) for at, symbol in enumerate(panel.symbols)}


def _rules(symbol: str, quote: str, closes: NDArray[np.float64]) -> Instrument:
    known = closes[~np.isnan(closes)][:SAMPLE]
    tick = Decimal(1).scaleb(-_places(known) if len(known) else -PLACES_MAX)
    top = float(known.max()) if len(known) else 1.0
    lot_places = min(PLACES_MAX, max(0, int(np.ceil(np.log10(top / LOT_VALUE)))))
    step = Decimal(1).scaleb(-lot_places)
    base = symbol.partition("/")[0]
    return Instrument(
        symbol=symbol,
        venue_id=base + quote,
        base=base,
        quote=quote,
        tick=tick,
        step=step,
        min_qty=step,
        max_qty=Decimal(9_000_000_000),
        min_notional=MIN_NOTIONAL,
    )


def _places(prices: NDArray[np.float64]) -> int:
    """Return how many decimals the prices have, at most ``PLACES_MAX``."""
    for places in range(PLACES_MAX):
        if bool((np.abs(np.round(prices, places) - prices) < 1e-9 * np.maximum(prices, 1e-9)).all()):
            return places
    return PLACES_MAX
