"""``ballast kill``: the latch first, then the daemon, then, when no daemon answers, cancel by ourselves."""

import asyncio
from typing import Any, Final

from daemon.cli.client import call
from daemon.core.planner import client_prefix
from daemon.domain.errors import ConfigError, Fatal, Unreachable
from daemon.edge.latch import KillLatch
from daemon.settings import Settings, read_keys

ROUNDS_MAX: Final = 3
"""How often open orders are listed and cancelled until none of ours is left."""


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
    cancelled, left, problem = asyncio.run(_cancel_all(settings))
    done |= {"cancelled": cancelled, "left": left, "ok": left == 0 and not problem}
    return {**done, "detail": f"latch set; no daemon is running; {problem or 'cancelled on the exchange directly'}"}


async def _cancel_all(settings: Settings) -> tuple[int, int, str]:
    """Cancel this instance's open orders through an HTTP session of our own; return (cancelled, left, problem)."""
    import ccxt.async_support as ccxt

    from daemon.edge.rest import make_exchange
    from daemon.outlets import logs

    keys, table = read_keys(settings), settings.exchange
    logs.register_secrets(key.get_secret_value() for key in keys)
    exchange = make_exchange(
        table.id,
        rest_url=table.rest_url,
        ws_url=table.ws_url,
        ws_api_url=table.ws_api_url,
        sandbox=table.sandbox,
        api_key=keys.key.get_secret_value(),
        api_secret=keys.secret.get_secret_value(),
    )
    exchange.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
    prefix = client_prefix(settings.instance)
    cancelled, left, problem = 0, 0, ""
    try:
        for _ in range(ROUNDS_MAX):
            try:
                listed = await exchange.fetch_open_orders()
                ours = [one for one in listed if str(one.get("clientOrderId") or "").startswith(prefix)]
                left, problem = len(ours), ""
                if not ours:
                    break
                for order in ours:
                    cancelled += await _cancel(exchange, order["id"], order["symbol"])
            except ccxt.BaseError as error:
                problem = f"the exchange refused or did not answer: {type(error).__name__}"
    finally:
        await exchange.close()
    return cancelled, left, problem


async def _cancel(exchange: Any, order_id: str, symbol: str) -> bool:
    """Cancel one order; false when it had ended by itself, which the next listing proves."""
    import ccxt.async_support as ccxt

    try:
        await exchange.cancel_order(order_id, symbol)
    except ccxt.OrderNotFound:
        return False
    return True
