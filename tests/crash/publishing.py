"""A process that publishes a model again and again, each time in a child that ends at the next point, until one completes.

For a test; prints one line of JSON per child: folder, the model that was in use, how the child ended. torch is loaded
once and may use one thread only (``OMP_NUM_THREADS=1``): then its children can be forked.
"""

import itertools
import json
import os
import sys
from pathlib import Path

from daemon.edge import crash
from strategies.training.registry import publish
from tests.strategies.forecast_kit import untrained


def main(root: Path) -> None:
    """Kill one child per point."""
    first, second = untrained(1), untrained(2)
    for number in itertools.count(1):
        models = root / str(number)
        old = publish(models, *first)
        child = os.fork()
        if not child:
            crash.arm(number)
            publish(models, *second, boundary=crash.point)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"folder": str(models), "old": old, "code": code}), flush=True)
        if code == 0:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
