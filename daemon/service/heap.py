"""When Python's garbage collector runs: never in the middle of trading.

Left alone it starts wherever the next allocation happens to be, in whichever thread, and keeps the interpreter meanwhile.
ccxt's tables and our modules are some 300,000 objects: walking them stops the loop for 100 to 300 ms, and a hundred orders
leave enough behind for 2 to 6 ms in the middle of the next hundred.
"""

import gc
import sys
from typing import Final

SWITCH_S: Final = 0.0001
"""How long a thread of ours (the ledger writes rows) may keep the interpreter while the loop wants it; 5 ms by default."""
YOUNG_MAX: Final = 200_000
"""So many new objects are collected even when no moment is quiet."""
FULL_EVERY: Final = 60
"""Every so many quiet moments the whole heap is looked through, else what is young."""


class Heap:
    """Collects in quiet moments, from the first decision on; before that Python decides."""

    def __init__(self) -> None:
        """Leave everything to Python."""
        self._settled = False
        self._moments = 0

    def settle(self) -> None:
        """Keep the collector off what lives as long as the daemon, and take the choice of the moment over; once."""
        if self._settled:
            return
        self._settled = True
        gc.collect()
        gc.freeze()
        gc.disable()
        sys.setswitchinterval(SWITCH_S)

    def tidy(self, *, quiet: bool) -> None:
        """Collect now if it is quiet, or if it cannot wait any longer; called about once a second."""
        if not self._settled or not (quiet or gc.get_count()[0] > YOUNG_MAX):
            return
        self._moments += 1
        gc.collect(2 if self._moments % FULL_EVERY == 0 else 1)

    def release(self) -> None:
        """Give the choice back to Python: the daemon ends."""
        if self._settled:
            self._settled = False
            gc.enable()
