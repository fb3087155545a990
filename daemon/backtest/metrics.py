"""What an equity curve says: the figures of a result, and the series and tables that a report draws.

Pure functions of numpy arrays. `docs/metrics-of-a-backtest.md` defines every figure; what the definitions rest on:

- A row is dated at the close of its bar, so a bar that closes at midnight belongs to the day that ends then: day D is
  the rows with D 00:00 < date <= D+1 00:00 UTC. Daily returns therefore multiply up to the total return, exactly.
- `flow` is money paid in (+) or out (-) since the row before, already inside `equity` and invested from its row on.
- A ratio with nothing below the line is 0.0 when nothing is above it either (cash), and None otherwise. No figure is
  ever NaN or infinite: JSON could not hold it.
"""

from math import sqrt
from typing import Final

import msgspec
import numpy as np
from numpy import float64, int64
from numpy.typing import NDArray

DAY_NS: Final = 86_400_000_000_000
DAYS_PER_YEAR: Final = 365
"""Crypto markets never close; the length of a year in `cagr` is the same 365 days of 24 h."""
ZERO: Final = 1e-12
"""Daily returns, drawdowns and dispersions below this are rounding of the sums behind them, not a movement."""

Floats = NDArray[float64]
Times = NDArray[int64]


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one curve; ratios are plain numbers (0.1 is 10 %), money is in quote currency.

    Attributes
    ----------
    total_return, cagr, volatility, sharpe, sortino, calmar, win_rate
        Of the unit value, that is with flows taken out; annualised with 365 days. None: undefined.
    max_drawdown
        <= 0, over every row.
    turnover
        Mean of sum |dw| per day.
    fees, slippage_cost
        As the caller passed them; costs are positive.
    avg_gross_exposure
        Mean over the rows of sum |position value| / equity.
    days
        UTC days that the curve covers, the first and last perhaps in part.
    """

    total_return: float
    cagr: float | None
    volatility: float | None
    sharpe: float | None
    sortino: float | None
    calmar: float | None
    max_drawdown: float
    win_rate: float | None
    turnover: float
    fees: float
    slippage_cost: float
    avg_gross_exposure: float
    days: int


def metrics(
    date_ns: Times,
    equity: Floats,
    flow: Floats,
    *,
    exposure: Floats,
    turnover_ns: Times,
    turnover: Floats,
    fees: float,
    slippage_cost: float,
) -> Metrics:
    """Return the figures of one curve.

    Parameters
    ----------
    date_ns
        (n,) strictly rising bar closes, ns UTC; the first is the opening of the run.
    equity
        (n,) value of the account, quote currency, > 0 at the opening and never negative.
    flow
        (n,) money paid in (+) or out (-) since the row before; that of the opening is ignored.
    exposure
        (n,) sum |position value| / equity.
    turnover_ns, turnover
        (m,) dates of decisions within the run, ns UTC, and what each turned over: sum |dw| (`turned_over`).
    fees, slippage_cost
        Total of the run, quote currency, >= 0 (a maker's rebate may make fees negative).

    Raises
    ------
    ValueError
        For shapes that do not fit, dates that do not rise, values that are not finite, a decision outside of the run.
    """
    unit = unit_values(date_ns, equity, flow)
    daily = returns_of(daily_values(date_ns, unit)[1])
    _check_turnover(date_ns, turnover_ns, turnover)
    if exposure.shape != equity.shape or not np.isfinite(exposure).all():
        raise ValueError(f"exposure: expected {len(equity)} finite numbers, one per row of equity")
    if not (np.isfinite(fees) and np.isfinite(slippage_cost)):
        raise ValueError(f"fees {fees} and slippage_cost {slippage_cost} must be finite")
    yearly = cagr(date_ns, unit)
    deepest = float(drawdowns(unit).min())
    return Metrics(
        total_return=float(unit[-1]) - 1.0,
        cagr=yearly,
        volatility=volatility(daily),
        sharpe=sharpe(daily),
        sortino=sortino(daily),
        calmar=None if yearly is None else ratio(yearly, -deepest),
        max_drawdown=deepest,
        win_rate=float(np.mean(daily > ZERO)) if len(daily) else None,
        turnover=float(turnover.sum()) / max(len(daily), 1),
        fees=float(fees),
        slippage_cost=float(slippage_cost),
        avg_gross_exposure=float(exposure.mean()),
        days=len(daily),
    )


def ratio(above: float, below: float) -> float | None:
    """Return above/below; with nothing below: 0.0 if nothing is above either, else None (undefined)."""
    if abs(below) <= ZERO:
        return 0.0 if abs(above) <= ZERO else None
    quotient = above / below
    return quotient if np.isfinite(quotient) else None


def unit_values(date_ns: Times, equity: Floats, flow: Floats) -> Floats:
    """Return (n,) value of one unit bought at the opening: the curve without its flows, 1.0 in the first row.

    unit[i] = unit[i-1] · (equity[i] - flow[i]) / equity[i-1]: the time-weighted return of the GIPS standards, which
    values the account at each flow; here at the end of the bar in which the flow came. While nothing is invested
    (equity 0) the unit keeps its value.
    """
    if not (date_ns.ndim == equity.ndim == flow.ndim == 1 and len(date_ns) == len(equity) == len(flow) > 0):
        raise ValueError(
            f"date_ns, equity and flow must be equally long and not empty, not {date_ns.shape}, {equity.shape}, {flow.shape}"
        )
    if not (np.diff(date_ns) > 0).all():
        raise ValueError("date_ns must rise strictly: sort the rows and drop doubled ones")
    if not (np.isfinite(equity).all() and np.isfinite(flow).all()):
        raise ValueError("equity and flow must be finite in every row")
    before, after = equity[:-1], equity[1:] - flow[1:]
    if not equity[0] > 0.0 or (equity < 0.0).any() or (after < -ZERO * before).any():
        raise ValueError(
            "equity must be positive at the opening and never negative, nor smaller than the flow it includes"
        )
    growth = np.ones(len(equity))
    np.divide(np.maximum(after, 0.0), before, out=growth[1:], where=before > 0.0)
    unit: Floats = np.cumprod(growth, dtype=float64)
    return unit


def day_of(date_ns: Times) -> Times:
    """Return (n,) the UTC day (days since 1970) that each bar close belongs to; midnight ends the day before it."""
    days: Times = (date_ns - 1) // DAY_NS
    return days


def daily_values(date_ns: Times, values: Floats) -> tuple[Times, Floats]:
    """Return the opening value and the last of each UTC day, with the days they are of (days since 1970).

    The first element is the opening, dated one day before the first day that has rows after it. A day without rows
    keeps the value of the day before.

    Returns
    -------
    (d + 1,) int64 and (d + 1,) float64, for d days; d = 0 for a curve of one row.
    """
    if len(values) < 2:
        return day_of(date_ns[:1]), values[:1].copy()
    days = day_of(date_ns[1:])
    every: Times = np.arange(days[0] - 1, days[-1] + 1, dtype=int64)
    # The last row of the day, or of the nearest day before that has one; 0, the opening, before the first.
    last = np.searchsorted(days, every, side="right")
    return every, values[last]


def returns_of(values: Floats) -> Floats:
    """Return (d,) simple returns of (d + 1,) values; 0 where the value before is 0 (nothing is left to lose)."""
    change = np.zeros(max(len(values) - 1, 0))
    np.divide(np.diff(values), values[:-1], out=change, where=values[:-1] > 0.0)
    return change


def daily_returns(date_ns: Times, equity: Floats, flow: Floats) -> tuple[Times, Floats]:
    """Return (d,) days (days since 1970 UTC) of a curve and (d,) its simple return in each, flows taken out."""
    days, values = daily_values(date_ns, unit_values(date_ns, equity, flow))
    return days[1:], returns_of(values)


def cagr(date_ns: Times, unit: Floats) -> float | None:
    """Return the compound growth per year of 365 days, from the time between first and last row; None for one row.

    A curve of a few hours may promise more than a float can hold: then None as well.
    """
    years = int(date_ns[-1] - date_ns[0]) / (DAYS_PER_YEAR * DAY_NS)
    if years <= 0.0:
        return None
    with np.errstate(over="ignore"):
        yearly = float(np.power(unit[-1] / unit[0], 1.0 / years)) - 1.0
    return yearly if np.isfinite(yearly) else None


def volatility(daily: Floats) -> float | None:
    """Return the standard deviation (ddof 1) of daily returns × √365; None for fewer than two days."""
    return float(daily.std(ddof=1)) * sqrt(DAYS_PER_YEAR) if len(daily) > 1 else None


def sharpe(daily: Floats) -> float | None:
    """Return mean / standard deviation (ddof 1) of daily returns × √365, for an interest rate of zero.

    Sharpe, The Sharpe Ratio, Journal of Portfolio Management 21 (1994), with a benchmark of zero. None for fewer than
    two days, and as in `ratio`.
    """
    if len(daily) < 2:
        return None
    plain = ratio(float(daily.mean()), float(daily.std(ddof=1)))
    return None if plain is None else plain * sqrt(DAYS_PER_YEAR)


def sortino(daily: Floats) -> float | None:
    """Return mean / downside deviation of daily returns × √365, with a target of zero.

    Downside deviation = sqrt(mean(min(r, 0)²)) over *all* days: Sortino & Price, Performance Measurement in a Downside
    Risk Framework, Journal of Investing 3 (1994). None for fewer than two days, and as in `ratio`.
    """
    if len(daily) < 2:
        return None
    below = float(np.sqrt(np.mean(np.square(np.minimum(daily, 0.0)))))
    plain = ratio(float(daily.mean()), below)
    return None if plain is None else plain * sqrt(DAYS_PER_YEAR)


def drawdowns(unit: Floats) -> Floats:
    """Return (n,) unit value against its highest so far, minus 1: 0 at a new high, -0.2 a fifth below it."""
    return unit / np.maximum.accumulate(unit) - 1.0


def rolling_sharpe(daily: Floats, window: int) -> Floats:
    """Return (d,) Sharpe ratio of the last ``window`` days; NaN before there are so many, and where it is undefined."""
    if window < 2:
        raise ValueError(f"window {window}: a Sharpe ratio needs at least 2 days")
    rolled = np.full(len(daily), np.nan)
    if len(daily) < window:
        return rolled
    windows = np.lib.stride_tricks.sliding_window_view(daily, window)
    mean, spread = windows.mean(axis=1), windows.std(axis=1, ddof=1)
    tail = rolled[window - 1 :]
    np.divide(mean * sqrt(DAYS_PER_YEAR), spread, out=tail, where=spread > ZERO)
    tail[(spread <= ZERO) & (np.abs(mean) <= ZERO)] = 0.0
    return rolled


class Monthly(msgspec.Struct, frozen=True):
    """Returns by calendar month: a row per year, twelve months (None: outside of the run), and the year as a whole."""

    years: tuple[int, ...]
    months: tuple[tuple[float | None, ...], ...]
    totals: tuple[float, ...]


def monthly(date_ns: Times, equity: Floats, flow: Floats) -> Monthly:
    """Return the flow-adjusted return of every UTC month that the curve touches; their product is the total return.

    As with days, midnight on the first of a month still belongs to the month before. A month without rows returns 0.
    """
    unit = unit_values(date_ns, equity, flow)
    if len(unit) < 2:
        return Monthly((), (), ())
    month = (date_ns[1:] - 1).astype("datetime64[ns]").astype("datetime64[M]").astype(int64)  # months since 1970
    every = np.arange(month[0] - 1, month[-1] + 1, dtype=int64)
    returns = returns_of(unit[np.searchsorted(month, every, side="right")])
    years = tuple(range(1970 + int(month[0]) // 12, 1970 + int(month[-1]) // 12 + 1))
    table: list[list[float | None]] = [[None] * 12 for _ in years]
    grown = [1.0] * len(years)
    for at, value in zip(every[1:], returns, strict=True):
        row = 1970 + int(at) // 12 - years[0]
        table[row][int(at) % 12] = float(value)
        grown[row] *= 1.0 + float(value)
    return Monthly(years, tuple(tuple(row) for row in table), tuple(value - 1.0 for value in grown))


def turned_over(before: Floats, after: Floats) -> Floats:
    """Return (m,) sum over assets of |after - before|, weights (m, n_assets) without cash; NaN weights count as 0.

    From cash into an asset is 1, from one asset into another is 2: buys and sells both count.
    """
    if before.shape != after.shape or before.ndim != 2:
        raise ValueError(
            f"weights before {before.shape} and after {after.shape} must have one shape, decisions × assets"
        )
    moved: Floats = np.abs(np.nan_to_num(after) - np.nan_to_num(before)).sum(axis=1)
    return moved


def daily_turnover(date_ns: Times, turnover_ns: Times, turnover: Floats) -> Floats:
    """Return (d,) turnover of each day of the curve; what was decided at the opening counts to the first day."""
    _check_turnover(date_ns, turnover_ns, turnover)
    days = daily_values(date_ns, np.zeros(len(date_ns)))[0][1:]
    if not len(days):
        return np.zeros(0)
    at = np.maximum(day_of(turnover_ns) - days[0], 0)
    return np.bincount(at, weights=turnover, minlength=len(days)).astype(float64)


def _check_turnover(date_ns: Times, turnover_ns: Times, turnover: Floats) -> None:
    if turnover_ns.shape != turnover.shape or turnover.ndim != 1:
        raise ValueError(f"turnover {turnover.shape} needs one date each, not {turnover_ns.shape}")
    if not (np.isfinite(turnover).all() and (turnover >= 0.0).all()):
        raise ValueError("turnover must be finite and not negative")
    if len(turnover_ns) and (turnover_ns.min() < date_ns[0] or turnover_ns.max() > date_ns[-1]):
        raise ValueError("turnover: a decision lies outside of the equity curve")


def accumulated(date_ns: Times, at_ns: Times, asset: Times, amount: Floats, n_assets: int) -> Floats:
    """Return (n, n_assets) running total per row and asset of amounts dated at or before the row.

    Fills become holdings (amount = ± quantity) or the cash that trading moved (amount = ∓ quantity · price - fee).
    ``at_ns``, ``asset`` (column) and ``amount`` are (m,), in any order; an amount after the last row is an error.
    """
    row = np.searchsorted(date_ns, at_ns, side="left")
    if len(row) and int(row.max()) >= len(date_ns):
        raise ValueError("a fill is dated after the last row of the equity curve")
    total = np.zeros((len(date_ns), n_assets))
    np.add.at(total, (row, asset), amount)
    return np.cumsum(total, axis=0)


def attribution(held: Floats, moved: Floats, closes: Floats) -> Floats:
    """Return (n, n_assets) cumulative profit and loss per asset, quote currency, fees included.

    Profit = value of what is held + cash that trading the asset has brought so far. The assets' sum is equity less the
    opening equity less all flows. Positions held at the opening count as bought at the first price.

    Parameters
    ----------
    held
        (n, n_assets) quantity after each row.
    moved
        (n, n_assets) cash that trading brought (+) or cost (-) up to each row, fees deducted.
    closes
        (n, n_assets) prices; NaN is allowed where nothing is held.
    """
    if not held.shape == moved.shape == closes.shape:
        raise ValueError(f"held {held.shape}, moved {moved.shape} and closes {closes.shape} must have one shape")
    if (np.isnan(closes) & (held != 0.0)).any():
        raise ValueError("closes: an asset is held in a row without a price; pass its last price")
    value = np.where(held == 0.0, 0.0, held * np.nan_to_num(closes))
    opening: Floats = value[0] + moved[0]
    profit: Floats = value + moved - opening
    return profit
