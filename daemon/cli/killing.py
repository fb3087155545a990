"""``ballast kill``: the latch first, then the daemon, then, when no daemon answers, cancel by ourselves."""

import math
import time
from typing import Any, Final

from daemon.cli.client import call
from daemon.domain.errors import ConfigError, Fatal, Unreachable
from daemon.edge.clock import Clock
from daemon.edge.latch import KillLatch
from daemon.settings import Settings, read_keys

ROUNDS_MAX: Final = 5
"""How often open orders are listed and cancelled until none of ours is left."""
PAUSE_S: Final = 0.2
"""Pause between two of these rounds."""


def kill_now(settings: Settings) -> dict[str, Any]:
    """Halt everything and return what was done: ``{ok, latch, daemon, cancelled, left, detail}``.

    Raises
    ------
    ConfigError
        If the latch cannot be written, or no daemon runs and the keys to cancel with are missing.
    """
    latch = KillLatch(settings.state_path)
    try:
        latch.set("ballast kill")
    except OSError as error:
        raise ConfigError(f"{latch.path}: cannot be written ({error.strerror}); make state_dir writable") from None
    done: dict[str, Any] = {"ok": True, "latch": str(latch.path), "daemon": True, "cancelled": 0, "left": 0}
    try:
        call(settings, "kill", scope="kill", post={})
    except Unreachable:
        done["daemon"] = False
    except Fatal as error:  # the latch works without the answer: the daemon reads it before every order
        return {**done, "detail": f"latch set; {error}"}
    if done["daemon"]:
        return {**done, "detail": "latch set; the daemon cancels and halts"}
    if settings.mode != "live":
        return {**done, "detail": "latch set; no daemon is running, and paper orders live in it alone"}
    cancelled, left, problem = _cancel_all(settings)
    done |= {"cancelled": cancelled, "left": left, "ok": left == 0 and not problem}
    return {**done, "detail": f"latch set; no daemon is running; {problem or 'cancelled on the exchange directly'}"}


def _cancel_all(settings: Settings) -> tuple[int, int, str]:
    """Cancel this instance's open orders, ten at a time; return (cancelled, still open or -1 for unknown, problem).

    One by one even where the venue has a "cancel all": that would take the orders of others on the symbol too.
    """
    from daemon.edge.watchdog_venue import Door
    from daemon.outlets import logs
    from daemon.service.venues import watched

    if not settings.exchange.id.startswith("binance"):
        return 0, -1, f"orders on {settings.exchange.id} cannot be cancelled from here yet; cancel them on its own page"
    keys = read_keys(settings)
    logs.register_secrets(key.get_secret_value() for key in keys)
    door = Door(watched(settings, keys), KillLatch(settings.state_path), Clock())
    cancelled, left, problem = 0, -1, ""
    try:
        for attempt in range(ROUNDS_MAX):
            if attempt:
                time.sleep(PAUSE_S)
            done = door.cancel_round()
            cancelled += done.cancelled
            left, problem = done.left, done.problem
            if left == 0:
                break
            if done.wait_s > PAUSE_S:
                return (
                    cancelled,
                    left,
                    f"the exchange wants quiet for another {math.ceil(done.wait_s)} s; try again then",
                )
    finally:
        door.close()
    return cancelled, left, f"the exchange refused or did not answer: {problem}" if problem else ""
