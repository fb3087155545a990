"""What training minimises; everything is in standardised units, sigma·sqrt(horizon) of the window."""

from typing import Final

import torch
from torch import Tensor

from strategies.artifact import Hyper

__all__ = ["training_loss"]

COST_MAX: Final = 2.0
"""Bound of the cost in standardised units: a window that hardly moves must not own the batch."""


def training_loss(
    mean: Tensor, scale: Tensor, realised: Tensor, sigma_h: Tensor, *, hyper: Hyper, shift: int
) -> Tensor:
    """Return MSE of the mean + Gaussian NLL of the scale - ``return_weight`` · what trading the mean would earn.

    The mean learns from the squared error and from the return; the likelihood sees it detached, since weighting errors
    by a learnt variance lets a model give up on the mean (Seitzer et al., On the Pitfalls of Heteroscedastic
    Uncertainty Estimation, ICLR 2022, section 3). The return term is that of Moody & Saffell, Learning to Trade via
    Direct Reinforcement, IEEE TNN 12 (2001), eq. 4: a position tanh(k·mean) earns position · return less a cost on what
    was traded; with one sub-portfolio per bar, each held for the horizon, that is the change since ``shift`` bars ago.

    Parameters
    ----------
    mean, scale, realised
        Shape (n_windows, n_positions), consecutive bars along the second axis.
    sigma_h
        Shape (n_windows,): the unit, sigma·sqrt(horizon) as a fraction, > 0.
    hyper
        ``return_weight``, ``position_gain`` and ``cost_bps`` (one way).
    shift
        Bars between two trades of a sub-portfolio, 1 <= shift < n_positions.
    """
    squared = torch.square(realised - mean).mean()
    likelihood = (torch.log(scale) + 0.5 * torch.square((realised - mean.detach()) / scale)).mean()
    position = torch.tanh(hyper.position_gain * mean)
    cost = (hyper.cost_bps * 1e-4 / sigma_h).clamp(max=COST_MAX)
    traded = (position[:, shift:] - position[:, :-shift]).abs().mean(dim=1)
    earned = (position * realised).mean() - (cost * traded).mean()
    return squared + likelihood - hyper.return_weight * earned
