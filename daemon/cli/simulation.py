"""``ballast simulate``: the simulated exchange alone."""

import asyncio
import contextlib
import json
import signal
import sys

from daemon.domain.errors import ConfigError
from daemon.exchange.config import SimConfig
from daemon.exchange.server import SimulatedExchange


def serve(*, port: int, config: SimConfig, as_json: bool) -> int:
    """Serve until SIGINT or SIGTERM and return the exit code.

    Raises
    ------
    ConfigError
        If the port is in use or the candles cannot be replayed.
    """
    try:
        asyncio.run(_serve(config, port, as_json=as_json))
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot listen there ({error.strerror or error}); choose another, or 0 for a free one"
        ) from None
    except ValueError as error:
        raise ConfigError(f"simulate: {error}") from None
    return 0


async def _serve(config: SimConfig, port: int, *, as_json: bool) -> None:
    exchange = SimulatedExchange(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        bound = await exchange.start(port)
        _announce(exchange, bound, as_json=as_json)
        await stop.wait()
    finally:
        with contextlib.suppress(OSError):
            await exchange.stop()


def _announce(exchange: SimulatedExchange, port: int, *, as_json: bool) -> None:
    key = exchange.config.keys[0]
    base = f"{exchange.config.host}:{port}"
    if as_json:
        document = {"ok": True, "rest_url": f"http://{base}", "ws_url": f"ws://{base}", "api_key": key.key}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(
            f"simulated exchange (seed {exchange.config.seed}) at http://{base} and ws://{base}, Ctrl-C ends it\n"
            f"its key is {key.key}, its secret {key.secret}; in a configuration:\n"
            f'  [exchange]\n  rest_url = "http://{base}"\n  ws_url = "ws://{base}"\n'
        )
    sys.stdout.flush()
