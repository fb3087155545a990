"""Walk-forward folds: nothing that is judged may have been learned from."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from strategies.training.purged import Fold, walk_forward


def test_the_windows_by_hand() -> None:
    """100 bars, 3 folds, 5 bars between: 21 bars each (85 bars by four parts), the odd bar goes to the first part."""
    assert walk_forward(100, folds=3, purge=3, embargo=2) == (
        Fold(0, 0, 22, 27, 48),
        Fold(1, 0, 48, 53, 74),
        Fold(2, 0, 74, 79, 100),
    )


def test_a_training_part_that_rolls() -> None:
    """`train_max` bounds what is learned from; `train_min` what there is before the first window."""
    assert walk_forward(1_000, folds=2, purge=10, train_min=400, train_max=300) == (
        Fold(0, 100, 400, 410, 700),
        Fold(1, 400, 700, 710, 1_000),
    )


@given(
    n_bars=st.integers(1, 3_000),
    folds=st.integers(1, 12),
    purge=st.integers(0, 60),
    embargo=st.integers(0, 60),
    train_min=st.integers(0, 300),
    train_max=st.integers(0, 300),
)
def test_no_label_reaches_a_window(
    n_bars: int, folds: int, purge: int, embargo: int, train_min: int, train_max: int
) -> None:
    """A label of any training bar ends before the window and its embargo; windows are equal, apart, and end the data."""
    try:
        made = walk_forward(n_bars, folds=folds, purge=purge, embargo=embargo, train_min=train_min, train_max=train_max)
    except ValueError:
        assume(False)
        return

    assert [fold.number for fold in made] == list(range(folds))
    assert made[-1].last == n_bars
    assert len({fold.last - fold.first for fold in made}) == 1
    assert made[0].train_last >= max(train_min, 1)
    for fold in made:
        assert 0 <= fold.train_first < fold.train_last < fold.first + 1 <= fold.last
        assert fold.train_last - 1 + purge + embargo < fold.first
        assert not train_max or fold.train_last - fold.train_first <= train_max
    for before, after in itertools.pairwise(made):
        assert before.last + purge + embargo == after.first  # what is learned from a window does not reach the next


@given(folds=st.integers(1, 12), purge=st.integers(0, 60), embargo=st.integers(0, 60))
def test_the_message_says_how_many_bars_would_do(folds: int, purge: int, embargo: int) -> None:
    """One bar fewer than the number named is refused, the number itself is enough."""
    with pytest.raises(ValueError, match="are too few") as caught:
        walk_forward(0, folds=folds, purge=purge, embargo=embargo)
    needed = int(str(caught.value).split("at least ")[1].split()[0])

    assert len(walk_forward(needed, folds=folds, purge=purge, embargo=embargo)) == folds
    with pytest.raises(ValueError, match="are too few"):
        walk_forward(needed - 1, folds=folds, purge=purge, embargo=embargo)


@pytest.mark.parametrize("wrong", ["folds", "purge", "embargo", "train_min", "train_max"])
def test_counts_out_of_range(wrong: str) -> None:
    """A negative count, or no fold at all, is refused by name."""
    counts = {"folds": 2, "purge": 1, wrong: -1}

    with pytest.raises(ValueError, match=f"{wrong} = -1"):
        walk_forward(100, **counts)
