"""The whole state of an engine as bytes, and back, exact to the bit: what a segment of the flight recorder opens with.

    freeze(engine) ─▶ Picture ─▶ pieces(picture) ─▶ bytes … ─▶ restore(new engine, bytes …)

``freeze`` walks everything that can be reached from the engine, whatever classes and attributes there are: a new one is
covered by itself, and what cannot be kept (a file, a generator, a method of a list) is an error that names it. Every
object or container that can change becomes a numbered node, so that references to the same one stay references to the
same one; what never changes is kept by reference and costs nothing. That makes ``freeze`` short enough for the event
loop; ``pieces`` may run in a thread while the engine goes on.

``restore`` is in ``daemon/core/snapshot_restore.py``.
"""

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import cache
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Final, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.core.buffers import Buffers
from daemon.core.config import EngineConfig
from daemon.core.engine import Engine
from daemon.core.snapshot_values import (
    FORMAT,
    Contained,
    End,
    Entry,
    Filled,
    Mark,
    Mixed,
    More,
    Numbers,
    Ref,
    SnapshotError,
    Writer,
    are_leaves,
    class_named,
    holds_leaves,
    is_leaf,
    slots_of,
)
from risk.limits import Limits

PIECE_ITEMS: Final = 512
"""Values in one piece: writing them takes about a millisecond, during which the thread holds the interpreter."""
BYTES_PER_ITEM: Final = 512
"""Bytes of an array that count as one value."""
MIRRORED: Final[dict[tuple[type, str], int]] = {(Buffers, "_data"): 1, (Buffers, "_closes"): 0}
"""Arrays whose second half along this axis repeats the first (see `Buffers`): half is kept."""
ROWS_MIN: Final = 8
"""From so many on, flat objects in one container are taken as rows, three times as fast."""
CONTAINERS: Final = (dict, Counter, list, deque, set)
_CONFIGURATION: Final = (EngineConfig, Limits)

Array = NDArray[np.float64] | NDArray[np.int64]
Getter = Callable[[object], tuple[object, ...]]
_GETTERS: dict[type, tuple[tuple[str, ...], Getter]] = {}


class _Object(msgspec.Struct, frozen=True):
    cls: type
    names: tuple[str, ...]
    values: list[object]


class _Rows(msgspec.Struct, frozen=True):
    """Many objects of one class whose attributes are leaves by declaration: a node each."""

    cls: type
    names: tuple[str, ...]
    rows: list[tuple[object, ...]]


class _Container(msgspec.Struct, frozen=True):
    """Items of a container, for a dict its values beside ``keys``; ``bound`` is a deque's largest length."""

    kind: str
    items: list[object]
    keys: list[object] | None = None
    bound: int | None = None


class _Array(msgspec.Struct, frozen=True):
    """A copy; with ``axis`` only the first half along it."""

    content: Array
    axis: int | None


_Node = _Object | _Rows | _Container | _Array


class Picture(msgspec.Struct, frozen=True):
    """An engine's state at one instant; later events do not change it. Opaque: `pieces` writes it."""

    nodes: list[_Node]


# ---------------------------------------------------------------------------------------------- taking


def freeze(engine: Engine) -> Picture:
    """Return the engine's state as it is between two events.

    Raises
    ------
    SnapshotError
        If something in it cannot be kept; the line names the class and the attribute.
    """
    engine.state.forget_values()  # an outlet that asked for equity would differ from a replay, where nobody asks
    return Picture(_Freezer(engine).run())


class _Freezer:
    """One walk, breadth first, attributes in the order of their names."""

    def __init__(self, engine: Engine) -> None:
        self._config = engine.config
        self._refs: dict[int, Ref] = {}
        self._found: list[object] = []  # an object, or a list of those that make rows
        self._owners: list[object] = []
        self._axes: dict[int, int] = {}
        self._ref(engine)

    def run(self) -> list[_Node]:
        nodes = [_rows(one) if type(one) is _Alike else self._node(one) for one in self._found]  # grows meanwhile
        for owner in self._owners:
            if id(owner) not in self._refs:
                raise SnapshotError(f"a method of a {type(owner).__qualname__} outside the engine cannot be kept")
        return nodes

    def _ref(self, value: object) -> Ref:
        known = self._refs.get(id(value))
        if known is None:
            known = self._refs[id(value)] = Ref(len(self._refs))
            self._found.append(value)
        return known

    def _node(self, value: object) -> _Node:
        cls = type(value)
        if isinstance(value, dict) and cls in {dict, Counter}:
            keys = list(value)  # keys cannot change: they are looked at when they are written
            return _Container("dict" if cls is dict else "counter", self._all(list(value.values())), keys)
        if isinstance(value, list) and cls is list:
            return _Container("list", self._all(list(value)))
        if isinstance(value, deque) and cls is deque:
            return _Container("deque", self._all(list(value)), None, value.maxlen)
        if isinstance(value, set) and cls is set:
            return _Container("set", list(value))
        if isinstance(value, np.ndarray):
            axis = self._axes.get(id(value))
            half = value if axis is None else value[(slice(None),) * axis + (slice(value.shape[axis] // 2),)]
            return _Array(half.copy(), axis)
        return self._object(value)

    def _all(self, values: list[object]) -> list[object]:
        if values and values[0] is None and _are_none(values):  # a dict that serves as an ordered set may be long
            return values
        kinds = set(map(type, values))
        if all(map(is_leaf, kinds)):
            return values
        if len(values) >= ROWS_MIN and len(kinds) == 1 and _is_flat(*kinds):
            ids = list(map(id, values))
            if len(set(ids)) == len(ids) and self._refs.keys().isdisjoint(ids):
                refs = list(map(Ref, range(len(self._refs), len(self._refs) + len(ids))))
                self._refs.update(zip(ids, refs, strict=True))
                self._found.append(_Alike(values))
                return refs  # type: ignore[return-value]
        return [self._value(one) for one in values]

    def _object(self, value: object) -> _Object:
        cls = type(value)
        names, values = attributes(value)
        if are_leaves(values):
            return _Object(cls, names, values)
        for place, (name, one) in enumerate(zip(names, values, strict=True)):
            if (cls, name) in MIRRORED:
                self._axes[id(one)] = MIRRORED[cls, name]
            try:
                values[place] = self._value(one)
            except SnapshotError as error:
                raise SnapshotError(f"{cls.__qualname__}.{name}: {error}") from None
        return _Object(cls, names, values)

    def _value(self, value: object) -> object:
        cls = type(value)
        if cls in _CONFIGURATION:
            limits = self._config.limits
            return Mark.CONFIG if value is self._config else Mark.LIMITS if value is limits else value
        if is_leaf(cls) or isinstance(value, frozenset):
            return value
        if isinstance(value, tuple) and cls is tuple:
            return self._tuple(value)
        if isinstance(value, MethodType):
            self._owners.append(value.__self__)
            return Mark.KEPT
        if isinstance(value, FunctionType) and value.__closure__ is None:
            return Mark.KEPT
        if cls in CONTAINERS or isinstance(value, np.ndarray) or _is_ours(cls):
            return self._ref(value)
        raise SnapshotError(f"a {cls.__module__}.{cls.__qualname__} cannot be kept in a snapshot")

    def _tuple(self, value: tuple[object, ...]) -> object:
        if are_leaves(value):
            return value
        items = tuple(self._value(one) for one in value)
        if items and all(one is Mark.KEPT for one in items):
            return Mark.KEPT
        return Mixed(items)


def _are_none(values: list[object]) -> bool:
    try:
        return values.count(None) == len(values)
    except ValueError:  # an array does not compare
        return False


class _Alike(list[object]):
    """Objects of one flat class."""


def _rows(alike: "_Alike") -> _Rows:
    cls = type(alike[0])
    names, getter = _getter(cls)
    return _Rows(cls, names, [getter(one)[:-2] for one in alike])


@cache
def _is_flat(cls: type) -> bool:
    """Return whether a class is a dataclass with nothing but slots, all of declared types that never change."""
    if not dataclasses.is_dataclass(cls) or not _is_ours(cls) or cls.__base__ is not object:
        return False
    fields = sorted(one.name for one in dataclasses.fields(cls))
    return sorted(slots_of(cls)) == fields and all(map(holds_leaves, get_type_hints(cls).values()))


def _is_ours(cls: type) -> bool:
    """Return whether objects of a class are walked: it is defined in one of our pure packages."""
    try:
        return class_named(f"{cls.__module__}:{cls.__qualname__}") is cls
    except SnapshotError:
        return False


def attributes(value: object) -> tuple[tuple[str, ...], list[object]]:
    """Return names and values of everything an object holds, by name; slots that were never set are left out."""
    names, getter = _getter(type(value))
    try:
        values = list(getter(value)[:-2])
    except AttributeError:
        names = tuple(name for name in names if hasattr(value, name))
        values = [getattr(value, name) for name in names]
    own: dict[str, object] | None = getattr(value, "__dict__", None)
    if not own:
        return names, values
    every = dict(zip(names, values, strict=True)) | own
    names = tuple(sorted(every))
    return names, [every[name] for name in names]


def _getter(cls: type) -> tuple[tuple[str, ...], Getter]:
    """Return the names of a class's slots and what reads them all at once, followed by two values of no account."""
    known = _GETTERS.get(cls)
    if known is None:
        names = tuple(sorted(name for base in cls.__mro__ for name in slots_of(base)))
        known = _GETTERS[cls] = (names, attrgetter(*names, "__class__", "__class__"))
    return known


# ---------------------------------------------------------------------------------------------- writing


def pieces(picture: Picture) -> Iterator[bytes]:
    """Yield the picture as msgpack, in pieces of about ``PIECE_ITEMS`` values; the last one says that it is the last.

    Raises
    ------
    SnapshotError
        If it holds what cannot be kept.
    """
    writer = Writer()
    encode = msgspec.msgpack.Encoder().encode
    batch: list[Entry] = []
    weight = 0
    for node in picture.nodes:
        for entry, items in _entries(node, writer):
            batch.append(entry)
            weight += items
            if weight >= PIECE_ITEMS:
                yield encode(batch)
                batch, weight = [], 0
    batch.append(End(FORMAT, writer.classes))
    yield encode(batch)


def _entries(node: _Node, writer: Writer) -> Iterator[tuple[Entry, int]]:
    """Yield what stands for one node, and how many values that counts as; long ones go on with ``More``."""
    if isinstance(node, _Object):
        number = writer.number(node.cls, lambda: node.names)
        other = writer.classes[number][1] != node.names  # slots that were not set: rare
        names = list(node.names) if other else None
        yield Filled(number, [writer.put(one) for one in node.values], names), len(node.values)
    elif isinstance(node, _Rows):
        number = writer.number(node.cls, lambda: node.names)
        for row in node.rows:
            yield Filled(number, [writer.put(one) for one in row]), len(row)
    elif isinstance(node, _Container):
        yield from _contained(node, writer)
    else:
        content = node.content
        flat = content.reshape(-1).view(np.uint8)
        step = PIECE_ITEMS * BYTES_PER_ITEM
        for start in range(0, max(1, flat.size), step):
            part = flat[start : start + step].tobytes()
            head = Numbers(content.dtype.str, content.shape, node.axis, part)
            yield More(part) if start else head, 1 + len(part) // BYTES_PER_ITEM


def _contained(node: _Container, writer: Writer) -> Iterator[tuple[Entry, int]]:
    items, keys = node.items, node.keys
    if node.kind == "set":
        items = sorted(items, key=lambda one: msgspec.msgpack.encode(writer.put(one)))
    for start in range(0, max(1, len(items)), PIECE_ITEMS):
        part = [writer.put(one) for one in items[start : start + PIECE_ITEMS]]
        if keys is not None:
            names = [writer.put(one) for one in keys[start : start + PIECE_ITEMS]]
            part = [one for pair in zip(names, part, strict=True) for one in pair]
        yield More(part) if start else Contained(node.kind, node.bound, part), 1 + len(part)
