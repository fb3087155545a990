"""JSON for people and programs: money as strings, instants with an ISO twin (DESIGN A3)."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec

_TIME_NS_MIN: Final = 10**17
"""``…_ns`` integers above this are instants and get an ISO twin; smaller ones are durations."""

_TIME_NS_MAX: Final = 253_402_300_799 * 10**9
"""The end of the year 9999: no calendar goes further."""


def jsonable(value: object) -> Any:
    """Return plain JSON values: money as strings, non-finite ratios as null, every instant ``…_ns`` with an ISO twin."""
    return _twins(msgspec.to_builtins(value, str_keys=True))


def iso(ns: int) -> str:
    """Return a time in ns UTC as ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _twins(value: Any) -> Any:
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for key, item in cast("dict[str, Any]", value).items():
            out[key] = _twins(item)
            if key.endswith("_ns") and isinstance(item, int) and _TIME_NS_MIN < item < _TIME_NS_MAX:
                out[f"{key[:-3]}_iso"] = iso(item)
        return out
    if isinstance(value, list | tuple):
        return [_twins(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
