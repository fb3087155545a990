"""A start that must not happen, against a real simulated exchange: one line and the right exit code."""

import asyncio
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.exchange.config import ApiKey, SimConfig
from daemon.exchange.server import SimulatedExchange

REPO = Path(__file__).resolve().parents[2]
KEY = secrets.token_hex(8)  # the account lock is keyed on it: a demo on the same machine must not be in the way
KEYS = {"EXCHANGE__API_KEY": KEY, "EXCHANGE__API_SECRET": "sim-secret"}
LIVE = {"MODE": "live", "LIVE_CONFIRM": "main", **KEYS}


@pytest.fixture
async def exchange(request: pytest.FixtureRequest) -> AsyncIterator[SimulatedExchange]:
    """A small exchange; the parameter says whether its key may withdraw."""
    key = ApiKey(key=KEY, withdraw=bool(getattr(request, "param", False)))
    simulated = SimulatedExchange(SimConfig(symbols=2, history_bars=300, keys=(key,)))
    await simulated.start()
    yield simulated
    await simulated.stop()


async def start(exchange: SimulatedExchange, tmp_path: Path, command: str = "run", **env: str) -> tuple[int, str]:
    """Run a command that is expected to end by itself; return exit code and the lines for people."""
    base = f"127.0.0.1:{exchange.port}"
    variables = {
        "UNIVERSE": "BTC/USDT,ETH/USDT",
        "BAR": "1s",
        "FEED__GRACE_MS": "200",
        "FEED__BACKFILL_BARS": "100",
        "FORECAST__MODEL": "zero",
        "STATE_DIR": str(tmp_path / "var"),
        "EXCHANGE__REST_URL": f"http://{base}",
        "EXCHANGE__WS_URL": f"ws://{base}",
        "API__LISTEN": "127.0.0.1:0",
        "METRICS__LISTEN": "127.0.0.1:0",
        "LOG__LEVEL": "error",
        **env,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daemon",
        *command.split(),
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPO), **{f"BALLAST_{k}": v for k, v in variables.items()}},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    lines = errors.decode().splitlines()
    assert "sim-secret" not in errors.decode()
    return process.returncode or 0, "\n".join(line for line in lines if line.startswith("ballast: "))


async def test_unknown_symbol(exchange: SimulatedExchange, tmp_path: Path) -> None:
    """The pair is named."""
    code, line = await start(exchange, tmp_path, UNIVERSE="BTC/USDT,NOPE/USDT")

    assert code == 78
    assert "NOPE" in line
    assert len(line.splitlines()) == 1


async def test_rejected_key(exchange: SimulatedExchange, tmp_path: Path) -> None:
    """A key that the exchange does not know ends the start; the key is not shown."""
    code, line = await start(exchange, tmp_path, **{**LIVE, "EXCHANGE__API_KEY": "MARKERwrongkey"})

    assert code in {77, 78}
    assert "key" in line
    assert "MARKERwrongkey" not in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("exchange", [True], indirect=True)
async def test_key_that_may_withdraw(exchange: SimulatedExchange, tmp_path: Path) -> None:
    """Refused for safety."""
    code, line = await start(exchange, tmp_path, **LIVE)

    assert code == 77
    assert "withdraw" in line
    assert len(line.splitlines()) == 1


async def test_port_in_use(exchange: SimulatedExchange, tmp_path: Path) -> None:
    """The configuration key and the address are named; nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, line = await start(exchange, tmp_path, METRICS__LISTEN=address)

    assert code == 78
    assert f'metrics.listen = "{address}": cannot listen there' in line
    assert len(line.splitlines()) == 1


async def test_unreachable_exchange_in_a_one_shot_command(exchange: SimulatedExchange, tmp_path: Path) -> None:
    """`check --online` gives up after bounded retries with 69."""
    code, line = await start(
        exchange,
        tmp_path,
        "check --online",
        EXCHANGE__REST_URL="http://127.0.0.1:9",
        EXCHANGE__WS_URL="ws://127.0.0.1:9",
    )

    assert code == 69
    assert len(line.splitlines()) == 1
