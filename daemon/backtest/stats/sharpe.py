"""How much evidence a Sharpe ratio is: for its length, its fat tails, and the number of trials it is the best of.

All ratios in here are per period (per day for daily returns), not annualised, as the formulas want them.

Sources:
[B12] Bailey & López de Prado, The Sharpe Ratio Efficient Frontier, Journal of Risk 15 (2012).
[B14] Bailey & López de Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40 (2014).
"""

from math import e, erfc, inf, sqrt
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.metrics import ZERO, ratio

EULER: Final = 0.5772156649015329
"""The Euler–Mascheroni constant γ."""
NORMAL: Final = NormalDist()

Floats = NDArray[float64]


class Moments(msgspec.Struct, frozen=True, kw_only=True):
    """What a Sharpe ratio and its error are made of.

    ``sharpe`` is mean / standard deviation (ddof 1), per period. ``skew`` and ``kurtosis`` are the plain ratios of
    population moments (0 and 3 for a normal distribution). ``n`` periods.
    """

    n: int
    sharpe: float
    skew: float
    kurtosis: float

    @property
    def spread(self) -> float:
        """Return sqrt(n - 1) × the standard error of the Sharpe ratio: [B12], after Mertens 2002, >= 0."""
        return sqrt(max(1.0 - self.skew * self.sharpe + (self.kurtosis - 1.0) / 4.0 * self.sharpe**2, 0.0))


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks for a strategy being better than nothing, and than the luckiest of its siblings; ratios per period.

    Attributes
    ----------
    n, sharpe, skew, kurtosis
        As in `Moments`.
    probabilistic
        P(true Sharpe > 0 | the sample): `probabilistic_sharpe`.
    trials
        Trials counted, after their correlation is allowed for (`effective_trials`); 1 when none are given.
    sharpe_by_luck
        What the best of so many trials without any skill would show: `expected_maximum`.
    deflated
        P(true Sharpe > sharpe_by_luck | the sample).
    periods_needed
        Periods at which this Sharpe would be above 0 with 95 % confidence; None if it is not positive.
    """

    n: int
    sharpe: float
    skew: float
    kurtosis: float
    probabilistic: float
    trials: float
    sharpe_by_luck: float
    deflated: float
    periods_needed: float | None


def cumulative(z: float) -> float:
    """Return the standard normal distribution function Φ(z), exact in both tails."""
    return 0.5 * erfc(-z / sqrt(2.0))


def moments(returns: Floats) -> Moments | None:
    """Return the moments of (n,) returns; None for fewer than two, or when they do not vary (`metrics.ZERO`)."""
    if returns.ndim != 1 or not np.isfinite(returns).all():
        raise ValueError(f"returns {returns.shape} must be one finite number per period")
    if len(returns) < 2:
        return None
    deviation = float(returns.std())
    if deviation <= ZERO:
        return None
    scaled = (returns - returns.mean()) / deviation
    return Moments(
        n=len(returns),
        sharpe=float(returns.mean()) / float(returns.std(ddof=1)),
        skew=float(np.mean(scaled**3)),
        kurtosis=float(np.mean(scaled**4)),
    )


def probabilistic_sharpe(sample: Moments, threshold: float = 0.0) -> float:
    """Return P(true Sharpe > threshold), 0..1: [B12].

    PSR(S*) = Φ((S - S*) · sqrt(n - 1) / sqrt(1 - skew · S + (kurtosis - 1)/4 · S²)), with ``threshold`` S* per period.
    """
    return cumulative(_quotient((sample.sharpe - threshold) * sqrt(sample.n - 1), sample.spread))


def expected_maximum(deviation: float, trials: float) -> float:
    """Return the Sharpe ratio, per period, that the best of ``trials`` without skill is expected to show: [B14].

    E[max] = deviation · ((1 - γ) · Φ⁻¹(1 - 1/N) + γ · Φ⁻¹(1 - 1/(N·e))), where ``deviation`` is the standard deviation
    of the Sharpe ratios of the N independent trials. 0 for a single trial: nothing was chosen. (The formula holds for
    large N; for N below 2 it would fall below 0 and is cut there.)
    """
    if not (trials >= 1.0 and deviation >= 0.0 and np.isfinite(trials) and np.isfinite(deviation)):
        raise ValueError(f"trials {trials} must be at least 1 and deviation {deviation} not negative")
    if trials <= 1.0:
        return 0.0
    low, high = NORMAL.inv_cdf(1.0 - 1.0 / trials), NORMAL.inv_cdf(1.0 - 1.0 / (trials * e))
    return max(deviation * ((1.0 - EULER) * low + EULER * high), 0.0)


def deflated_sharpe(sample: Moments, *, deviation: float, trials: float) -> float:
    """Return P(true Sharpe > what the best of the trials shows by luck), 0..1: [B14]. About 0.5 for luck."""
    return probabilistic_sharpe(sample, expected_maximum(deviation, trials))


def effective_trials(returns: Floats) -> float:
    """Return how many independent trials N correlated ones are worth, 1..N: ρ + (1 - ρ) · N, appendix of [B14].

    ``returns`` is (n_periods, n_trials); ρ the mean correlation between two different trials, taken as 0 when negative.
    Trials whose return never varies are left out of the mean and count as independent.
    """
    n_trials = returns.shape[1]
    varied = returns[:, returns.std(axis=0) > 0.0]
    if varied.shape[1] < 2:
        return float(n_trials)
    # The mean of all correlations without making the table: the squared length of the sum of the unit vectors.
    centred = varied - varied.mean(axis=0)
    unit = centred / np.sqrt(np.square(centred).sum(axis=0))
    count = unit.shape[1]
    mean = (float(np.square(unit.sum(axis=1)).sum()) - count) / (count * (count - 1))
    mean = float(min(max(mean, 0.0), 1.0))
    return mean + (1.0 - mean) * float(n_trials)


def minimum_track_record(sample: Moments, *, threshold: float = 0.0, confidence: float = 0.95) -> float | None:
    """Return the periods needed for P(true Sharpe > threshold) = confidence: [B12]; None if it is not above.

    MinTRL = 1 + (1 - skew · S + (kurtosis - 1)/4 · S²) · (Φ⁻¹(confidence) / (S - S*))².
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} must be between 0 and 1 (0.95 is 95 %)")
    if sample.sharpe <= threshold:
        return None
    errors: float = sample.spread * NORMAL.inv_cdf(confidence) / (sample.sharpe - threshold)
    needed = 1.0 + errors * errors
    return needed if np.isfinite(needed) else None


def evidence(returns: Floats, trials: Floats | None = None) -> Evidence | None:
    """Return the evidence behind (n,) returns; None when they have no Sharpe ratio (`moments`).

    Parameters
    ----------
    returns
        (n,) returns per period of the strategy that was chosen.
    trials
        (n_periods, n_trials) returns of everything that was tried, the chosen one included; None: nothing else was.
    """
    sample = moments(returns)
    if sample is None:
        return None
    count, luck = 1.0, 0.0
    if trials is not None:
        if trials.ndim != 2 or len(trials) < 2 or not trials.shape[1] or not np.isfinite(trials).all():
            raise ValueError(f"trials {trials.shape} must be finite, periods × trials, with at least two periods")
        count = effective_trials(trials)
        # A trial that does nothing has a ratio of 0; one without a ratio at all tells nothing of their spread.
        ratios = [
            one
            for mean, deviation in zip(trials.mean(axis=0).tolist(), trials.std(axis=0, ddof=1).tolist(), strict=True)
            if (one := ratio(mean, deviation)) is not None
        ]
        luck = expected_maximum(float(np.std(ratios, ddof=1)), count) if len(ratios) > 1 else 0.0
    return Evidence(
        n=sample.n,
        sharpe=sample.sharpe,
        skew=sample.skew,
        kurtosis=sample.kurtosis,
        probabilistic=probabilistic_sharpe(sample),
        trials=count,
        sharpe_by_luck=luck,
        deflated=probabilistic_sharpe(sample, luck),
        periods_needed=minimum_track_record(sample),
    )


def _quotient(above: float, below: float) -> float:
    if below > 0.0:
        return above / below
    return 0.0 if above == 0.0 else inf if above > 0.0 else -inf
