"""Work on a Ray cluster that is there already; none is ever started or stopped from here."""

import socket
from importlib import import_module
from typing import Any, Final

from daemon.backtest.scale import AUTO, RETRIES, Work, WorkersDie
from daemon.domain.errors import Unreachable, UsageError

PROBE_S_MAX: Final = 5.0
"""How long the named address may take to accept a connection."""
POLL_S: Final = 5.0
IDLE_POLLS_MAX: Final = 24
"""Polls without any node that has a CPU until the cluster counts as gone: two minutes."""


def ray_crew(address: str, work: Work, shared: Any) -> "RayCrew | None":
    """Return workers on a cluster; None when "auto" finds none.

    "auto" is the cluster that RAY_ADDRESS names, else the one that ``ray start`` started on this machine.

    Raises
    ------
    UsageError
        Ray is not installed, and an address was given.
    Unreachable
        The address does not answer.
    """
    try:
        ray = import_module("ray")
    except ImportError:
        if address == AUTO:
            return None
        raise UsageError(f"--ray {address}: Ray is not installed; `pip install 'ballast[ray]'` does that") from None
    if address != AUTO:
        _probe(address)
    try:
        ray.init(address=address, configure_logging=False, log_to_driver=False, namespace="ballast")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if address == AUTO:
            return None
        raise Unreachable(f"--ray {address}: no cluster answers ({_one_line(error)})") from None
    return RayCrew(ray, work, shared)


class RayCrew:
    """Pieces of work as Ray tasks; what is shared is put into the object store once.

    A task whose worker or node died is run again by Ray itself, up to `RETRIES` times.
    """

    def __init__(self, ray: Any, work: Work, shared: Any) -> None:
        self._ray = ray
        self._shared = ray.put((work, shared))
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(_call)
        self._open: dict[Any, int] = {}

    @property
    def where(self) -> str:
        """Return the cluster's size."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return f"Ray: {len(nodes)} nodes, {int(self._ray.cluster_resources().get('CPU', 0))} CPUs"

    def submit(self, tag: int, item: Any) -> None:
        """Start a task."""
        self._open[self._task.remote(self._shared, item)] = tag

    def take(self) -> tuple[int, Any]:
        """Wait for the next answer.

        Raises
        ------
        Unreachable
            The cluster has had no CPU left for two minutes.
        WorkersDie
            A task was lost more often than `RETRIES` allows.
        """
        errors = self._ray.exceptions
        reference = self._ready()
        tag = self._open.pop(reference)
        try:
            return tag, self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except errors.RayError as error:
            raise WorkersDie(
                f"a Ray worker died {RETRIES + 1} times over the same piece of work ({_one_line(error)}); out of memory? "
                "give its nodes fewer CPUs"
            ) from None

    def close(self) -> None:
        """Cancel what is open and leave the cluster."""
        for reference in self._open:
            self._ray.cancel(reference, force=True)
        self._open.clear()
        self._ray.shutdown()

    def _ready(self) -> Any:
        """Return the reference of a task that is over."""
        if not self._open:
            raise IndexError("nothing was submitted")
        idle = 0
        while True:
            ready, _ = self._ray.wait(list(self._open), num_returns=1, timeout=POLL_S)
            if ready:
                return ready[0]
            idle = 0 if self._ray.cluster_resources().get("CPU", 0) else idle + 1
            if idle > IDLE_POLLS_MAX:
                raise Unreachable(
                    "the Ray cluster has had no CPU for two minutes: start a worker node and run the command again"
                )


def _call(load: tuple[Work, Any], item: Any) -> Any:
    work, shared = load
    return work(shared, item)


def _probe(address: str) -> None:
    """Refuse an address where nobody listens, at once instead of after Ray's own long patience."""
    plain = address.partition("://")[2] or address
    host, _, port = plain.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--ray {address}: must be auto, off or HOST:PORT, for example 127.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S_MAX).close()
    except OSError as error:
        raise Unreachable(f"--ray {address}: no cluster answers ({error.strerror or error})") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
