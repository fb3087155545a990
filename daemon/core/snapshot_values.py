"""The leaves of a snapshot: values that never change, written so that they come back as what they were, to the last bit.

Numbers, text and bytes are plain msgpack. What msgpack does not know stands as an array that begins with a letter:
``D`` Decimal, ``I`` integer beyond 64 bits, ``E`` enumeration, ``S`` frozen struct, ``T`` tuple, ``F`` frozen set, and
``R`` for the number of a node (see ``daemon/core/snapshot.py``). Classes are known by number; only classes of the
packages below are ever looked up, and nothing is imported.
"""

import sys
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from types import UnionType
from typing import Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

PACKAGES: Final = ("daemon.core.", "daemon.domain.", "daemon.matching.", "risk.")
"""A snapshot holds objects of classes defined here, and of no other."""
PLAIN: Final = frozenset({type(None), bool, float, str, bytes})
INT_MIN, INT_MAX = -(2**63), 2**64 - 1
"""Integers that msgpack holds."""

Encoded = object
"""What msgpack writes as it is: None, bool, int, float, str, bytes and lists of them."""


FORMAT: Final = 1
"""Raised when what is written changes its meaning."""


class SnapshotError(ValueError):
    """State that cannot be kept, or a snapshot that does not fit this code; one line."""


class Filled(msgspec.Struct, frozen=True, array_like=True, tag="object"):
    """Entry of an object: its class by number and its attributes; ``names`` when they are not those of the class."""

    cls: int
    values: list[Encoded]
    names: list[str] | None = None


class Contained(msgspec.Struct, frozen=True, array_like=True, tag="container"):
    """Entry of a container: its items, of a dict keys and values by turns; ``bound`` is a deque's largest length."""

    kind: str
    bound: int | None
    items: list[Encoded]


class Numbers(msgspec.Struct, frozen=True, array_like=True, tag="array"):
    """Entry of an array; with ``axis`` only the first half along it."""

    dtype: str
    shape: tuple[int, ...]
    axis: int | None
    content: bytes


class More(msgspec.Struct, frozen=True, array_like=True, tag="more"):
    """Entry that goes on with the container or array of the one before."""

    items: list[Encoded] | bytes


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """Last entry: the format, and the classes by number with the names of their attributes."""

    format: int
    classes: list[tuple[str, tuple[str, ...]]]


Entry = Filled | Contained | Numbers | More | End


class Ref(msgspec.Struct, frozen=True, gc=False):
    """Stands for an object or container that can change: the number of its node."""

    node: int


class Mixed(msgspec.Struct, frozen=True):
    """A tuple that holds references."""

    items: tuple[object, ...]


class Mark(Enum):
    """What is not stored: a new engine has it already."""

    CONFIG = "c"  # the engine's configuration
    LIMITS = "l"  # the limits of that configuration
    KEPT = "k"  # callables: they belong to the object that is being filled


_MARKS: Final = {mark.value: mark for mark in Mark}
_LEAVES: dict[type, bool] = {}


def name_of(cls: type) -> str:
    """Return the name under which a class is found again. Raises SnapshotError when it is none of ours."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    if class_named(name) is not cls:
        raise SnapshotError(f"{name} is not the class of that name")
    return name


def class_named(name: str) -> type:
    """Return a class of ours. Raises SnapshotError when there is none of that name."""
    module, _, plain = name.partition(":")
    found = getattr(sys.modules.get(module), plain, None) if module.startswith(PACKAGES) else None
    if not isinstance(found, type) or found.__module__ != module:
        raise SnapshotError(f"{name} is no class of {', '.join(one.rstrip('.') for one in PACKAGES)}")
    return found


def is_leaf(cls: type) -> bool:
    """Return whether values of a type can never change: they are kept by reference and written later."""
    known = _LEAVES.get(cls)
    if known is None:
        known = _LEAVES[cls] = _never_changes(cls)
    return known


def _never_changes(cls: type) -> bool:
    if cls in PLAIN or cls is int or cls is Decimal:
        return True
    if issubclass(cls, Enum):
        return bool(name_of(cls))
    if issubclass(cls, msgspec.Struct) and cls.__struct_config__.frozen:
        try:
            hints = get_type_hints(cls)
        except NameError:  # names for type checkers alone: arrays
            return False
        return bool(name_of(cls)) and all(map(holds_leaves, hints.values()))
    return False


def holds_leaves(hint: object) -> bool:
    """Return whether a field of this annotation can never change."""
    if isinstance(hint, type) and get_origin(hint) is None:
        return is_leaf(hint)
    if get_origin(hint) in {tuple, frozenset, Union, UnionType}:
        return all(one is Ellipsis or holds_leaves(one) for one in get_args(hint))
    return get_origin(hint) is Literal


def are_leaves(values: Iterable[object]) -> bool:
    """Return whether every value is a leaf by its type; tuples do not count."""
    return all(map(is_leaf, set(map(type, values))))


class Writer:
    """Turns values into what msgpack writes; numbers the classes as they appear.

    ``classes`` holds (name, names of attributes) by number.
    """

    def __init__(self) -> None:
        self.classes: list[tuple[str, tuple[str, ...]]] = []
        self._numbers: dict[type, int] = {}
        self._encode = msgspec.msgpack.Encoder(decimal_format="string").encode

    def number(self, cls: type, attributes: Callable[[], tuple[str, ...]] = tuple) -> int:
        """Return the number of a class; ``attributes`` is asked at its first appearance."""
        known = self._numbers.get(cls)
        if known is None:
            known = self._numbers[cls] = len(self.classes)
            self.classes.append((name_of(cls), attributes()))
        return known

    def put(self, value: object) -> Encoded:  # noqa: PLR0911 - one case per kind
        """Return a leaf or a reference as msgpack writes it. Raises SnapshotError for anything else."""
        cls = type(value)
        if cls in PLAIN:
            return value
        if isinstance(value, Enum):
            return [value.value] if cls is Mark else ["E", self.number(cls), value.value]
        if cls is int:
            return value if INT_MIN <= value <= INT_MAX else ["I", str(value)]  # type: ignore[operator]
        if cls is Decimal:
            return ["D", str(value)]
        if cls is Ref:
            return ["R", value.node]  # type: ignore[attr-defined]
        if cls is tuple or cls is Mixed:
            items: tuple[object, ...] = value.items if isinstance(value, Mixed) else value  # type: ignore[assignment]
            return ["T", *(items if PLAIN.issuperset(map(type, items)) else map(self.put, items))]
        if isinstance(value, frozenset):
            return ["F", *sorted(map(self.put, value), key=self._encode)]
        if isinstance(value, msgspec.Struct) and is_leaf(cls):
            number = self.number(cls, lambda: described(cls))
            try:
                return ["S", number, self._encode(value)]
            except OverflowError:  # a trade of 2e11 units has more lots than 64 bits hold
                return ["S", number, msgspec.json.encode(value).decode()]
        raise SnapshotError(f"a {cls.__module__}.{cls.__qualname__} cannot be kept in a snapshot")


def described(cls: type) -> tuple[str, ...]:
    """Return a struct's fields with their types: a snapshot of other fields is refused."""
    hints = get_type_hints(cls)
    return tuple(f"{name}: {_shown(hints[name])}" for name in getattr(cls, "__struct_fields__", ()))


def _shown(hint: object) -> str:
    return hint.__qualname__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)


class Reader:
    """Turns back what `Writer` wrote."""

    def __init__(self, classes: list[type], node: Callable[[int], object]) -> None:
        """Know the classes by number; ``node`` returns what a number of a node stands for."""
        self._node = node
        self._classes = classes
        self._decoders: dict[int, Callable[[bytes], object]] = {}

    def get(self, value: Encoded) -> object:  # noqa: PLR0911 - one case per kind
        """Return the value; a `Mark` for what was not stored."""
        if not isinstance(value, list):
            return value
        match value:
            case ["D", text]:
                return msgspec.convert(text, Decimal)
            case ["I", text]:
                return int(text)
            case ["E", number, content]:
                return self._classes[number](content)
            case ["S", number, str() as text]:
                return msgspec.json.decode(text, type=self._classes[number])
            case ["S", number, content]:
                return self._struct(number)(content)
            case ["T", *items]:
                return tuple(map(self.get, items))
            case ["F", *items]:
                return frozenset(map(self.get, items))
            case ["R", node]:
                return self._node(node)
            case [mark]:
                return _MARKS[mark]
            case _:
                raise SnapshotError(f"unknown value {str(value)[:60]}")

    def _struct(self, number: int) -> Callable[[bytes], object]:
        known = self._decoders.get(number)
        if known is None:
            known = self._decoders[number] = msgspec.msgpack.Decoder(self._classes[number]).decode
        return known


def slots_of(base: type) -> tuple[str, ...]:
    """Return the slots that a class itself declares."""
    slots: str | tuple[str, ...] = base.__dict__.get("__slots__", ())
    return tuple(name for name in ((slots,) if isinstance(slots, str) else slots) if name != "__dict__")
