"""A clock that goes wrong on purpose: what a process asks for the time is told another one.

For a process that asks a strategy the same question at another time: one whose answer depends on the clock gives another.
Compiled libraries that ask the system themselves (``numpy.datetime64("now")``, ``pandas.Timestamp.now``) are not moved.
"""

import datetime as dt
import time
from collections.abc import Callable
from typing import Any, Final

NS_PER_S: Final = 1_000_000_000
_SECONDS: Final = ("time", "monotonic", "perf_counter")
_NANOSECONDS: Final = ("time_ns", "monotonic_ns", "perf_counter_ns")
_PARTS: Final = ("localtime", "gmtime", "ctime")


def move(offset_ns: int) -> None:
    """Move what ``time`` and ``datetime`` tell this process by so many ns; for good."""
    told: dict[str, Callable[..., Any]] = {name: getattr(time, name) for name in (*_SECONDS, *_NANOSECONDS, *_PARTS)}
    seconds = offset_ns / NS_PER_S
    for name in _SECONDS:
        setattr(time, name, _later(told[name], seconds))
    for name in _NANOSECONDS:
        setattr(time, name, _later(told[name], offset_ns))
    for name in _PARTS:
        setattr(time, name, _of_now(told[name], told["time"], seconds))
    difference = dt.timedelta(microseconds=offset_ns // 1_000)
    true_datetime, true_date = dt.datetime, dt.date

    class Meta(type):
        """Lets every true datetime pass for one of these."""

        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, true_datetime)

    class Moved(dt.datetime, metaclass=Meta):
        """A datetime whose now is another one."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            """Return the moved time."""
            return super().now(tz) + difference

        @classmethod
        def utcnow(cls) -> Any:
            """Return the moved time."""
            return super().now(dt.UTC).replace(tzinfo=None) + difference

        @classmethod
        def today(cls) -> Any:
            """Return the moved time."""
            return cls.now()

    class DayMeta(type):
        """Lets every true date pass for one of these."""

        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, true_date)

    class MovedDay(dt.date, metaclass=DayMeta):
        """A date whose today is another one."""

        @classmethod
        def today(cls) -> Any:
            """Return the moved day."""
            return Moved.now().date()

    for name, moved in (("datetime", Moved), ("date", MovedDay)):
        setattr(dt, name, moved)


def _later(clock: Callable[[], Any], offset: float) -> Callable[[], Any]:
    return lambda: clock() + offset


def _of_now(parts: Callable[..., Any], now: Callable[[], float], offset: float) -> Callable[..., Any]:
    return lambda seconds=None: parts(now() + offset if seconds is None else seconds)
