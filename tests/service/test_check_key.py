"""What is asked of the venue before the first order."""

import time
from pathlib import Path

import pytest

from daemon.domain.errors import Unsafe
from daemon.edge.clock import Clock
from daemon.exchange.config import ApiKey, SimConfig
from daemon.exchange.server import SimulatedExchange
from daemon.service.venues import check_key
from daemon.settings import load_settings, read_keys

NS = 1_000_000_000


@pytest.mark.parametrize("ahead_s", [0.0, 1.5, 30.0, -30.0, 86_400.0])
@pytest.mark.parametrize("withdraws", [False, True])
async def test_f47_a_key_is_checked_whatever_our_clock_says(tmp_path: Path, ahead_s: float, withdraws: bool) -> None:
    """With a clock more than 1 s ahead every signed request was refused (-1021) and the start waited for ever."""
    key = ApiKey(key="k", secret="s", withdraw=withdraws)
    config = SimConfig(history_bars=60, symbols=1, keys=(key,), start_ns=time.time_ns() - int(ahead_s * NS))
    sim = SimulatedExchange(config, lambda: time.time_ns() - int(ahead_s * NS))
    await sim.start()
    file = tmp_path / "live.toml"
    file.write_text(
        f"""
mode = "live"
live_confirm = "main"
universe = ["BTC/USDT"]
state_dir = "{tmp_path / "var"}"
[exchange]
rest_url = "http://127.0.0.1:{sim.port}"
ws_url = "ws://127.0.0.1:{sim.port}"
[risk]
max_weight = 1.0
"""
    )
    settings = load_settings([file], env={"BALLAST_EXCHANGE__API_KEY": "k", "BALLAST_EXCHANGE__API_SECRET": "s"})
    try:
        if withdraws:
            with pytest.raises(Unsafe, match="may withdraw"):
                await check_key(settings, read_keys(settings), Clock())
        else:
            await check_key(settings, read_keys(settings), Clock())
    finally:
        await sim.stop()

    asked = [one.path for one in sim.requests]
    assert asked.count("/sapi/v1/account/apiRestrictions") == 1
