"""The predictable component planted in the simulated returns, and its exact strength.

On the grid of bars of length ``bar_s`` the log return of a symbol is

    r[t+1] = m[t] + e[t+1],        m[t] = a m[t-1] + b e[t]

where e are shocks that nothing predicts (their size clusters, their sign does not) and m is the forecast. Since
``e[t] = r[t] - m[t-1]``, m is a function of past returns alone: ``m[t] = b * sum_k (a-b)^k r[t-k]``, an ARMA(1,1) in the
log returns (Box & Jenkins, ch. 3.4), so whoever sees the prices can recover it. With ``A(j) = (1 - a^j) / (1 - a)`` the
best forecast of the sum of the next h returns is ``A(h) m[t]``, and with unit shocks

    var(forecast) = A(h)^2 b^2 / (1 - a^2),     var(error) = sum_{j=0}^{h-1} (1 + b A(j))^2
    R2(h)         = var(forecast) / (var(forecast) + var(error))
"""

from typing import Final

__all__ = ["horizon_r2", "solve_gain"]

_STEPS: Final = 200


def horizon_r2(gain: float, persistence: float, horizon_bars: int) -> float:
    """Return R2(h) of the formula above, a ratio in 0..1, for b = gain and a = persistence."""
    a, b = persistence, gain
    forecast = ((1 - a**horizon_bars) / (1 - a)) ** 2 * b * b / (1 - a * a)
    error = sum((1 + b * (1 - a**j) / (1 - a)) ** 2 for j in range(horizon_bars))
    return forecast / (forecast + error)


def solve_gain(r2: float, persistence: float, horizon_bars: int) -> float:
    """Find the gain b in 0..a that gives the wanted R2 at the horizon, by bisection.

    Raises
    ------
    ValueError
        When r2, persistence or horizon are out of range, or no gain up to the persistence reaches r2.
    """
    if not 0 <= r2 < 1 or not 0 < persistence < 1 or horizon_bars < 1:
        msg = f"planted component impossible: r2={r2}, persistence={persistence}, horizon_bars={horizon_bars}"
        raise ValueError(msg)
    if r2 == 0:
        return 0.0
    low, high = 0.0, persistence
    if horizon_r2(high, persistence, horizon_bars) < r2:
        msg = f"planted_r2={r2} cannot be reached with planted_persistence={persistence}; raise the persistence"
        raise ValueError(msg)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if horizon_r2(middle, persistence, horizon_bars) < r2:
            low = middle
        else:
            high = middle
    return high
