"""What commands share: dates as text."""

import pytest

from daemon.cli.common import time_of
from daemon.domain.errors import UsageError

MORNING_NS = 1_706_659_200_000_000_000


@pytest.mark.parametrize(
    ("text", "after_ns"),
    [
        ("2024-01-31", 0),
        ("2024-01-31T12:00", 12 * 3_600 * 10**9),
        ("2024-01-31T12:00+02:00", 10 * 3_600 * 10**9),
        ("2024-01-31T00:00:00.123456Z", 123_456_000),
    ],
)
def test_a_date_is_utc_unless_it_names_a_zone(text: str, after_ns: int) -> None:
    """Exact to the microsecond, whatever the machine's own zone is."""
    assert time_of("--start", text) == MORNING_NS + after_ns


@pytest.mark.parametrize("text", ["", "soon", "2024-02-30", "31.01.2024"])
def test_what_is_no_date_is_named_with_its_option(text: str) -> None:
    """And how to write one."""
    with pytest.raises(UsageError, match=f"--since '{text}' is no date: write 2024-01-31"):
        time_of("--since", text)
