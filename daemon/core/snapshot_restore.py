"""A snapshot's bytes → the engine it was taken of; the other half of ``daemon/core/snapshot.py``.

A new engine of the same configuration is filled: objects that it has already are filled in place, so that callables and
configuration are those it was built with; everything else is made anew, without running any code of its class. A
snapshot of classes that hold other attributes or fields than this code's is refused: nothing may be guessed.
"""

from collections import Counter, deque
from collections.abc import Iterable
from math import isnan
from typing import Final, cast

import msgspec
import numpy as np

from daemon.core.engine import Engine
from daemon.core.snapshot import Array, attributes
from daemon.core.snapshot_values import (
    FORMAT,
    Contained,
    End,
    Entry,
    Filled,
    Mark,
    More,
    Numbers,
    Reader,
    SnapshotError,
    class_named,
    described,
    slots_of,
)

Classes = list[tuple[type, tuple[str, ...]]]
Node = Filled | Contained | Numbers
DETAIL_CHARS_MAX: Final = 400
_DECODER = msgspec.msgpack.Decoder(list[Entry])


def restore(engine: Engine, parts: Iterable[bytes]) -> None:
    """Make a new engine what the engine was that the snapshot is of; both must have been built with one configuration.

    Raises
    ------
    SnapshotError
        If the snapshot is not whole, or was taken by code whose classes hold something else. The engine is useless then.
    """
    try:
        nodes, classes = _read(parts)
        _Filler(engine, nodes, classes).run()
    except (msgspec.DecodeError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _in_one_line(error) from error


def _in_one_line(error: Exception) -> SnapshotError:
    """Return what is wrong, in one line whatever stands in the snapshot."""
    what = " ".join(str(error).split())[:DETAIL_CHARS_MAX]
    if isinstance(error, SnapshotError):
        return SnapshotError(what)
    return SnapshotError(f"it does not fit this code: {type(error).__name__}: {what}")


def difference(ours: Iterable[bytes], theirs: Iterable[bytes]) -> str:
    """Return where two snapshots of one configuration first differ ("Market.book"), "" when they say the same.

    Numbers are compared as numbers: a live event may have held 0 where the recorded one was read back as 0.0.

    Raises
    ------
    SnapshotError
        If one of them is not whole, or of classes that are not there.
    """
    try:
        mine, classes = _read(ours)
        yours, others = _read(theirs)
    except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
        raise _in_one_line(error) from error
    if classes != others:
        return "the classes it is made of"
    for one, other in zip(mine, yours, strict=False):
        if isinstance(one, Filled) and isinstance(other, Filled) and one.cls == other.cls:
            cls, names = classes[one.cls]
            for name, a, b in zip(one.names or names, one.values, other.values, strict=True):
                if not _alike(a, b):
                    return f"{cls.__qualname__}.{name}"
        elif not _alike(msgspec.to_builtins(one), msgspec.to_builtins(other)):
            return type(one).__name__.lower()
    return "" if len(mine) == len(yours) else "how many objects there are"


def _alike(one: object, other: object) -> bool:
    if one == other:
        return True
    match one, other:
        case ["S", int() as a, bytes() as mine], ["S", int() as b, bytes() as theirs]:
            return a == b and _alike(msgspec.msgpack.decode(mine), msgspec.msgpack.decode(theirs))
        case list(), list():
            return len(one) == len(other) and all(map(_alike, one, other))
        case dict(), dict():
            return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
        case float(), float():
            return isnan(one) and isnan(other)
        case _:
            return False


def _read(parts: Iterable[bytes]) -> tuple[list[Node], Classes]:
    """Return the nodes, each in one, and the classes by number."""
    nodes: list[Node] = []
    for part in parts:
        for entry in _DECODER.decode(part):
            if isinstance(entry, More):
                nodes[-1] = _longer(nodes[-1], entry)
            elif isinstance(entry, End):
                if entry.format != FORMAT:
                    raise SnapshotError(f"it is of format {entry.format}, this code reads {FORMAT}")
                return nodes, [(class_named(name), names) for name, names in entry.classes]
            else:
                nodes.append(entry)
    raise SnapshotError("its last part is missing")


def _longer(node: Node, more: More) -> Node:
    if isinstance(node, Contained) and isinstance(more.items, list):
        node.items.extend(more.items)
        return node
    if isinstance(node, Numbers) and isinstance(more.items, bytes):
        return msgspec.structs.replace(node, content=node.content + more.items)
    raise SnapshotError("an entry goes on that had ended")


class _Filler:
    """Makes the objects of all nodes, then fills them: references may go in circles."""

    def __init__(self, engine: Engine, nodes: list[Node], classes: Classes) -> None:
        self._config = engine.config
        self._nodes = nodes
        self._classes = classes
        self._made: dict[int, object] = {0: engine}
        self._fresh = {0}
        self._taken = {id(engine)}
        self._reader = Reader([cls for cls, _ in classes], self._made.__getitem__)
        for cls, names in classes:
            now = described(cls) if issubclass(cls, msgspec.Struct) else names
            if now != names:
                raise _misfit(cls, names, now)

    def run(self) -> None:
        """Make all, then fill all."""
        if not self._nodes or not isinstance(self._nodes[0], Filled):
            raise SnapshotError("it does not begin with an engine")
        for number, node in enumerate(self._nodes):
            if number not in self._made:
                self._made[number] = self._make(node)
            if isinstance(node, Filled):
                self._meet(number, node)
        for number, node in enumerate(self._nodes):
            if isinstance(node, Filled):
                for name, value in zip(self._names(node), node.values, strict=True):
                    self._set(number, name, self._value(value))
            elif isinstance(node, Contained):
                _extend(self._made[number], [self._value(value) for value in node.items])

    def _make(self, node: Node) -> object:
        if isinstance(node, Filled):
            cls = self._classes[node.cls][0]
            return object.__new__(cls)
        if isinstance(node, Numbers):
            return _array(node)
        match node.kind:
            case "list":
                return list[object]()
            case "dict":
                return dict[object, object]()
            case "counter":
                return Counter[object]()
            case "deque":
                return deque[object](maxlen=node.bound)
            case "set":
                return set[object]()
            case _:
                raise SnapshotError(f"{node.kind[:60]!r} is no kind of container")

    def _meet(self, number: int, node: Filled) -> None:
        """Check an object's attributes against this code's, and take over the objects that a new one has already."""
        owner = self._made[number]
        names = self._names(node)
        if type(owner) is not self._classes[node.cls][0]:
            raise SnapshotError("it does not begin with an engine")
        if number not in self._fresh:
            declared = {name for base in type(owner).__mro__ for name in slots_of(base)}
            if not set(names) <= declared or (node.names is None and set(names) != declared):
                raise _misfit(type(owner), names, declared)
            return
        have = attributes(owner)[0]
        if set(names) != set(have):
            raise _misfit(type(owner), names, have)
        for name, value in zip(names, node.values, strict=True):
            match value:
                case ["R", int() as place]:
                    self._take_over(place, getattr(owner, name))
                case _:
                    pass

    def _take_over(self, number: int, ours: object) -> None:
        """Fill this object in place if it is of the node's class and stands for no other node."""
        node = self._nodes[number]
        if not isinstance(node, Filled) or number in self._made or id(ours) in self._taken:
            return
        if self._classes[node.cls][0] is type(ours):
            self._made[number] = ours
            self._fresh.add(number)
            self._taken.add(id(ours))

    def _names(self, node: Filled) -> tuple[str, ...]:
        return tuple(node.names) if node.names is not None else self._classes[node.cls][1]

    def _value(self, value: object) -> object:
        found = self._reader.get(value)
        if found is Mark.CONFIG:
            return self._config
        return self._config.limits if found is Mark.LIMITS else found

    def _set(self, number: int, name: str, value: object) -> None:
        made = self._made[number]
        if value is not Mark.KEPT:
            object.__setattr__(made, name, value)
        elif number not in self._fresh:
            raise SnapshotError(f"{type(made).__qualname__}.{name} is a callable that a new engine does not have")


def _extend(made: object, items: list[object]) -> None:
    if isinstance(made, dict):
        pairs = zip(items[::2], items[1::2], strict=True)
        dict.update(cast("dict[object, object]", made), pairs)  # a Counter's own method would count them
    elif isinstance(made, set):
        cast("set[object]", made).update(items)
    elif isinstance(made, list | deque):
        cast("list[object]", made).extend(items)


def _array(node: Numbers) -> Array:
    dtype = np.dtype(node.dtype)
    if dtype.kind not in "biuf":
        raise SnapshotError(f"an array of {dtype} is no array of numbers")
    half = np.frombuffer(node.content, dtype=dtype).reshape(node.shape)
    return cast("Array", half.copy() if node.axis is None else np.concatenate([half, half], axis=node.axis))


def _misfit(cls: type, was: Iterable[str], now: Iterable[str]) -> SnapshotError:
    gone, new = sorted(set(was) - set(now)), sorted(set(now) - set(was))
    change = [*(f"{one} is gone" for one in gone), *(f"{one} is new" for one in new)] or ["the order is another"]
    return SnapshotError(f"it was taken by another version of the code: in {cls.__qualname__} {', '.join(change)}")
