"""Arrays as bytes, for events that cross a process border."""

import numpy as np


def pack(values: tuple[float, ...]) -> bytes:
    """Return the bytes of a float64 array."""
    return np.asarray(values, dtype=np.float64).tobytes()
