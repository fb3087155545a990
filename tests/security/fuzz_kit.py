"""Broken inputs: right documents with something wrong in them, and plain noise."""

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

NASTY: tuple[Any, ...] = (
    None, True, [], {}, "", " ", "NaN", "sNaN", "-Infinity", "1e999999999", "1e-999999999", "-1", "0", "²", "٣", "1_000",
    "\x00", "\ud800", "é" * 300, "9" * 5_000, -1, 0, 2**31, 2**63 - 1, 2**63, 10**30, 10**400, -(10**30), 0.1, -0.0, 1e308,
    [[[[]]]], {"a": {"a": {}}},
)  # fmt: skip
"""What a field should never hold."""
DEEP = 5_000

Path = tuple[str | int, ...]


def paths(value: Any, at: Path = ()) -> list[Path]:
    """Return the place of every value inside a document."""
    found: list[Path] = [at]
    if isinstance(value, dict):
        for key, item in value.items():
            found += paths(item, (*at, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += paths(item, (*at, index))
    return found


def put(document: Any, path: Path, value: Any) -> Any:
    """Return a copy with one value replaced."""
    if not path:
        return value
    changed = copy.deepcopy(document)
    node = changed
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return changed


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(NASTY),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def altered(draw: Callable[[st.SearchStrategy[Any]], Any], *documents: Any) -> Any:
    """A right document with one to three values that are wrong, or missing."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        places = paths(document)
        document = put(document, draw(st.sampled_from(places)), draw(st.sampled_from(NASTY) | json_values))
    return document


def text_of(document: Any) -> bytes:
    """Return a document as JSON bytes, whatever it holds (lone surrogates as escapes)."""
    return json.dumps(document).encode()


@st.composite
def broken_bytes(draw: Callable[[st.SearchStrategy[Any]], Any], *documents: Any, raw: tuple[bytes, ...] = ()) -> bytes:
    """Bytes of a right document, altered in meaning or in place; or noise, or an abyss of brackets."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return bytes(draw(st.binary(max_size=200)))
    if kind == 1:
        return bytes(draw(st.sampled_from((b"[", b'{"a":', b'{"data":[', b"[" * 5 + b'{"event":')))) * DEEP
    if kind <= 6 and documents:
        return text_of(draw(altered(*documents)))
    data = bytearray(draw(st.sampled_from([*raw, *(text_of(one) for one in documents)])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 2)):
            case 0:
                data[at : at + 1] = draw(st.binary(max_size=3))
            case 1:
                del data[at:]
            case _:
                data[at:at] = data[: draw(st.integers(0, 40))]
    return bytes(data)
