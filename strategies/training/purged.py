"""Walk-forward folds with purging and embargo: what may be learned from, and what it is then judged on.

M. López de Prado, Advances in Financial Machine Learning (2018), chapter 7: an observation whose label reaches into the
test window is purged from the training part (section 7.4.1), and a further gap, the embargo, stands against the
dependence that serial correlation leaves (section 7.4.2). In a walk-forward nothing after a test window is ever learned
from before it, so both gaps lie before the window; they lie between the windows too, since a later fold learns from the
windows of the earlier ones.
"""

from typing import NamedTuple

__all__ = ["Fold", "walk_forward"]


class Fold(NamedTuple):
    """One step of a walk-forward; all four are indices of bars, each end exclusive.

    Labels of the training bars ``train_first`` … ``train_last`` - 1 end before ``first``; the test window is ``first`` …
    ``last`` - 1. The bars between ``train_last`` and ``first`` may be looked at (they are past), never learned from.
    """

    number: int
    train_first: int
    train_last: int
    first: int
    last: int


def walk_forward(
    n_bars: int, *, folds: int, purge: int, embargo: int = 0, train_min: int = 0, train_max: int = 0
) -> tuple[Fold, ...]:
    """Return test windows of one length that end with the data, oldest first, each with all that may be learned before.

    Parameters
    ----------
    n_bars
        Bars there are.
    folds
        Test windows, at least 1.
    purge
        Bars that a label reaches beyond its observation (the forecast's horizon), >= 0.
    embargo
        Further bars kept free before a window, >= 0.
    train_min
        Bars of the first training part, at least; 0: as many as a test window has. What does not fill the windows
        evenly is added to it.
    train_max
        Bars of a training part, at most: a window that rolls; 0: it grows from the first bar on.

    Raises
    ------
    ValueError
        For a count out of range, or when the bars do not suffice for one bar per window; the message says how many do.
    """
    for name, value, least in (
        ("folds", folds, 1),
        ("purge", purge, 0),
        ("embargo", embargo, 0),
        ("train_min", train_min, 0),
        ("train_max", train_max, 0),
    ):
        if value < least:
            raise ValueError(f"{name} = {value}: must be at least {least}")
    gap = purge + embargo
    free = n_bars - folds * gap
    length = (free - train_min) // folds if train_min else free // (folds + 1)
    if length < 1:
        needed = folds * (gap + 1) + (train_min or 1)
        raise ValueError(
            f"{n_bars} bars are too few for {folds} folds with {gap} bars between them: at least {needed} are needed"
        )
    made: list[Fold] = []
    for number in range(folds):
        last = n_bars - (folds - 1 - number) * (length + gap)
        first = last - length
        train_last = first - gap
        train_first = max(0, train_last - train_max) if train_max else 0
        made.append(Fold(number, train_first, train_last, first, last))
    return tuple(made)
