"""Ids of decisions and orders."""

import re

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.plans import client_id, client_prefix, decision_id

TEXT = st.text(alphabet="ab1-/:", max_size=6)


def test_i1_client_ids_are_for_ever() -> None:
    """The id of a leg is a fact, not a draw: this value may never change while orders of it can be live."""
    one = client_id("main", "acct", "paper", decision=decision_id("bar", 1_700_000_000, 7), leg=0)

    assert one == "bbvxejjg3g7a64eiasb4p7k5fw"
    assert one.startswith(client_prefix("main"))
    assert one == client_id("main", "acct", "paper", decision="bar-1700000000-7", leg=0)
    assert not one.startswith(client_prefix("other"))


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT, st.integers(min_value=0, max_value=99)), unique=True, max_size=30))
def test_i1_client_ids_are_unique(legs: list[tuple[str, str, str, str, int]]) -> None:
    """Every part counts: instance, account, mode, decision and leg; 26 characters of [a-z2-7]."""
    ids = [client_id(i, a, m, decision=d, leg=n) for i, a, m, d, n in legs]

    assert len(set(ids)) == len(legs)
    assert all(re.fullmatch(r"b[a-z2-7]{25}", one) for one in ids)
