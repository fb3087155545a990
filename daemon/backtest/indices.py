"""What else the money could have done: benchmark value curves on the prices that the strategy saw.

Each trades at the closes of the rows it is given, for a fee on what it trades and nothing else: no spread, no impact, any
fraction of a coin. That flatters the benchmarks a little, never the strategy.

- An asset can be traded in a row that has a price for it. One without (before its listing, in an outage, after the
  end of its file) keeps its last price, is neither bought nor sold, and takes no part in the weights of that row.
- Costs are paid out of what is invested: after a rebalance the weights are exact and fee = rate · sum |traded value|.
- Before the first of the given rows everything is cash.
"""

from typing import Final

import msgspec
import numpy as np
from numpy import float64, int64
from numpy.typing import NDArray

FEE_RATE_MAX: Final = 0.2
"""Above this share a fee is a mistake in the unit (0.001 is 0.1 %), and `_settled` would converge slowly."""
STEPS_MAX: Final = 100
"""Steps of `_settled`: each leaves at most FEE_RATE_MAX of the error, 23 reach the last bit of a float."""
DUST: Final = 1e-12
"""A rebalance of less than this share of the money is rounding and is not made."""

Floats = NDArray[float64]
Rows = NDArray[int64]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark, row by row: everything that `metrics` asks for.

    Attributes
    ----------
    value
        (n_rows,) value, quote currency, after the trades of the row.
    cash
        (n_rows,) of it not invested, >= 0.
    quantity
        (n_rows, n_assets) coins held after the trades of the row.
    traded_rows, turnover
        (m,) rows in which something was traded, and sum over assets of |dw| in each, with w as a share of the value
        before the trade and before its costs.
    fees
        Paid in total, quote currency.
    """

    value: Floats
    cash: Floats
    quantity: Floats
    traded_rows: Rows
    turnover: Floats
    fees: float

    @property
    def exposure(self) -> Floats:
        """Return (n_rows,) share of the value that is invested; 0 when nothing is left."""
        share = np.zeros(len(self.value))
        np.divide(self.value - self.cash, self.value, out=share, where=self.value > 0.0)
        return share


def cash(n_rows: int, initial: float, n_assets: int = 0) -> Index:
    """Return the curve of doing nothing at all: no interest, no costs."""
    return Index(
        value=np.full(n_rows, initial),
        cash=np.full(n_rows, initial),
        quantity=np.zeros((n_rows, n_assets)),
        traded_rows=np.zeros(0, dtype=int64),
        turnover=np.zeros(0),
        fees=0.0,
    )


def equal_weight(closes: Floats, rows: Rows, *, fee_rate: float, initial: float) -> Index:
    """Return the curve of equal weights in every asset that has a price, restored in each of the rows.

    Parameters
    ----------
    closes
        (n_rows, n_assets) closing prices, > 0, quote currency; NaN where the asset had none.
    rows
        (k,) strictly rising rows in which the portfolio is rebalanced.
    fee_rate
        Fee as a share of the traded value, 0..0.2; 0.001 is 0.1 %.
    initial
        Cash in the first row, quote currency, > 0.

    Raises
    ------
    ValueError
        For rows that do not rise or lie outside, a price that is not positive, a fee rate or cash out of bounds.
    """
    _check(closes, rows, fee_rate=fee_rate, initial=initial)
    return _simulated(closes, rows, np.ones((len(rows), closes.shape[1])), fee_rate=fee_rate, initial=initial)


def buy_and_hold(closes: Floats, rows: Rows, *, fee_rate: float, initial: float) -> Index:
    """Return the curve of buying equal amounts of every asset that has a price in the first of the rows, and waiting.

    An asset listed later is not bought; one whose data end keeps its last price. If no asset has a price in the first
    row, the first row of the given ones in which one has is taken. Parameters as in `equal_weight`.
    """
    _check(closes, rows, fee_rate=fee_rate, initial=initial)
    first = rows[np.isfinite(closes[rows]).any(axis=1)][:1]
    return equal_weight(closes, first, fee_rate=fee_rate, initial=initial)


def market_cap(closes: Floats, rows: Rows, supply: Floats, *, fee_rate: float, initial: float) -> Index:
    """Return the curve of weights proportional to supply × price, restored in each of the rows.

    Parameters
    ----------
    supply
        (n_assets,) or, if it changes, (n_rows, n_assets) coins in circulation as known in the row; NaN: unknown, the
        asset is left out (and sold if it was held).

    The rest as in `equal_weight`. With a constant supply and the same assets throughout, no trade follows the first.

    Raises
    ------
    ValueError
        As `equal_weight`; for a supply of another shape, negative or infinite, or known for no asset at all.
    """
    if supply.shape not in {closes.shape, closes.shape[1:]}:
        raise ValueError(f"supply {supply.shape}: expected {closes.shape[1:]} or {closes.shape}, as the closes")
    if (supply < 0.0).any() or np.isinf(supply).any() or not (supply > 0.0).any():
        raise ValueError("supply: expected positive amounts, NaN where unknown, and at least one that is known")
    _check(closes, rows, fee_rate=fee_rate, initial=initial)
    known = supply[rows] if supply.ndim == 2 else supply
    return _simulated(closes, rows, np.nan_to_num(known * closes[rows]), fee_rate=fee_rate, initial=initial)


def last_prices(closes: Floats) -> Floats:
    """Return (n_rows, n_assets) closes with each gap filled by the price before it; 0 before the first price."""
    seen = np.where(np.isfinite(closes), np.arange(len(closes))[:, None], -1)
    at = np.maximum.accumulate(seen, axis=0)
    return np.where(at < 0, 0.0, np.take_along_axis(closes, np.maximum(at, 0), axis=0))


def _simulated(closes: Floats, rows: Rows, wanted: Floats, *, fee_rate: float, initial: float) -> Index:
    """Return the curve of a portfolio that restores weights ``wanted`` (k, n_assets), of any scale, in the k rows."""
    n_rows, n_assets = closes.shape
    prices, tradable = last_prices(closes), np.isfinite(closes)
    quantity, money = np.zeros((n_rows, n_assets)), np.full(n_rows, float(initial))
    held, purse, fees = np.zeros(n_assets), float(initial), 0.0
    traded: list[int] = []
    turnover: list[float] = []
    for at, row in enumerate(rows.tolist()):
        can = tradable[row]
        weights = np.where(can, wanted[at], 0.0)
        if weights.sum() > 0.0:
            values = held * prices[row]
            free = purse + float(values[can].sum())
            targets = np.where(can, _settled(values * can, weights / weights.sum(), free, fee_rate), values)
            change = float(np.abs(targets - values).sum())
            if change > DUST * free:
                traded.append(row)
                turnover.append(change / (purse + float(values.sum())))
                held = np.where(can, targets / np.where(can, prices[row], 1.0), held)
                fees += fee_rate * change
                purse = 0.0
        until = int(rows[at + 1]) if at + 1 < len(rows) else n_rows
        quantity[row:until], money[row:until] = held, purse
    return Index(
        value=money + (quantity * prices).sum(axis=1),
        cash=money,
        quantity=quantity,
        traded_rows=np.array(traded, dtype=int64),
        turnover=np.array(turnover, dtype=float64),
        fees=fees,
    )


def _settled(values: Floats, weights: Floats, free: float, fee_rate: float) -> Floats:
    """Return (n_assets,) values after a rebalance of ``free`` money that pays its own costs.

    Solves after + fee_rate · sum |weights · after - values| = free for ``after``: repeated substitution, which shrinks
    the error by at least the fee rate in each step, until the float no longer changes.
    """
    after = free
    for _ in range(STEPS_MAX):
        settled = free - fee_rate * float(np.abs(weights * after - values).sum())
        if abs(settled - after) <= np.spacing(free):
            after = settled
            break
        after = settled
    return weights * after


def _check(closes: Floats, rows: Rows, *, fee_rate: float, initial: float) -> None:
    if closes.ndim != 2 or not len(closes):
        raise ValueError(f"closes {closes.shape}: expected rows × assets and at least one row")
    if not (np.isnan(closes) | ((closes > 0.0) & np.isfinite(closes))).all():
        raise ValueError("closes must be positive and finite, or NaN where an asset has no price")
    if rows.ndim != 1 or (np.diff(rows) <= 0).any() or (rows < 0).any() or (rows >= len(closes)).any():
        raise ValueError(f"rows must rise strictly within 0..{len(closes) - 1}")
    if not 0.0 <= fee_rate <= FEE_RATE_MAX:
        raise ValueError(f"fee_rate {fee_rate} must be within 0..{FEE_RATE_MAX} (0.001 is 0.1 %)")
    if not (np.isfinite(initial) and initial > 0.0):
        raise ValueError(f"initial {initial} must be positive")
