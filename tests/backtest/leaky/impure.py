"""Strategies that are no functions of their view: memory, chance, clock, order of a set, a file of their own."""

import datetime as dt
import json
import random
from pathlib import Path

import numpy as np

from daemon.domain.signal import Targets, View

TABLE = Path(__file__).parent / "features.json"


def _targets(view: View, share: float) -> Targets:
    return Targets(view.symbols, (min(0.25, max(0.0, share)),) * len(view.symbols))


class Memory:
    """Weighs by how often it was asked."""

    def __init__(self) -> None:
        self._asked = 0

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Count."""
        self._asked += 1
        return _targets(view, 0.25 / self._asked)


class Chance:
    """Weighs by a number nobody can draw again."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Draw."""
        return _targets(view, float(np.random.default_rng().random()) / 4)


class SeededChance:
    """Weighs by a number of the global generator."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Draw."""
        return _targets(view, random.random() / 4)


class Clock:
    """Weighs by the day of the year."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Look at the calendar."""
        return _targets(view, dt.datetime.now(dt.UTC).timetuple().tm_yday / 2_000)


class Hashes:
    """Weighs by what happens to come first in a set."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Take one of many."""
        return _targets(view, int(next(iter({f"{one}" for one in range(1_000)}))) / 5_000)


class Table:
    """Weighs by a number from a file nobody else knows."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Look it up."""
        with TABLE.open() as file:
            return _targets(view, float(json.load(file)["share"]))


class Network:
    """Asks somebody else."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Nobody is there."""
        import socket

        with socket.socket() as link:
            link.connect_ex(("127.0.0.1", 9))
        return _targets(view, 0.1)


class Never:
    """Never decides."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Fail."""
        raise RuntimeError("not today")


class Dies:
    """Takes its process along."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """End."""
        import os

        os._exit(3)


class Hangs:
    """Never answers; says who it is."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Wait for ever."""
        import os
        import time

        (Path(__file__).parent / "hanging").write_text(str(os.getpid()))
        while True:
            time.sleep(60.0)
