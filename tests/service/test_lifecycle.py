"""A start that has to wait, is interrupted or fails half-way; what people ask meanwhile is answered."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from daemon.domain.errors import AlreadyRunning, ConfigError
from daemon.domain.events import Action, Killed, Timer, TradingState
from daemon.service import upkeep
from daemon.service.lifecycle import EARLY_MAX, Service
from daemon.settings import Settings, load_settings

NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens


def settings_in(folder: Path, *, metrics: str = "127.0.0.1:0") -> Settings:
    """Return a paper configuration whose exchange does not answer."""
    folder.mkdir(exist_ok=True)
    file = folder / "config.toml"
    file.write_text(
        f"""
universe = ["BTC/USDT", "ETH/USDT"]
state_dir = "{folder / "var"}"
[exchange]
rest_url = "{NOBODY}"
ws_url = "ws://127.0.0.1:9"
[api]
listen = "127.0.0.1:0"
[metrics]
listen = "{metrics}"
[ui]
listen = ""
"""
    )
    return load_settings([file], {})


@pytest.fixture
async def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service whose start waits for the exchange."""
    monkeypatch.setattr(upkeep, "RETRY_S", 0.01)
    service = Service(settings_in(tmp_path))
    starting = asyncio.create_task(service.start())
    async with asyncio.timeout(20.0):
        while not hasattr(service, "api") or not service.api.address or service.supervisor.failed():
            assert not starting.done(), starting.exception()
            await asyncio.sleep(0.01)
    yield service
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await service.stop()


async def read(url: str) -> tuple[int, str]:
    """Return status and text of a page, waiting for the listener."""
    async with asyncio.timeout(10.0), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(url) as answer:
                    return answer.status, await answer.text()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)


async def test_while_the_exchange_is_down_people_are_answered(waiting: Service) -> None:
    """An unreachable exchange is waited for in HALTED; metrics, health and status work meanwhile."""
    ready, reasons = await read(f"http://{waiting.api.address}/readyz")
    alive, _ = await read(f"http://{waiting.api.address}/healthz")
    scraped, metrics = await read(f"http://{waiting.scrape.address}/metrics")

    assert (ready, alive, scraped) == (503, 200, 200)
    assert "halted" in reasons
    assert 'ballast_trading_state{state="halted"} 1' in metrics
    assert waiting.venue is None


async def test_commands_before_the_engine_takes_events_wait_for_it(waiting: Service) -> None:
    """A pause is not lost, a kill is latched at once, and what waits is bounded."""
    waiting.command(Action.PAUSE, "test")
    waiting.kill()
    assert waiting.latch.is_set()
    for _ in range(2 * EARLY_MAX):
        waiting.emit(Timer(1, 1))
    early = waiting._early

    assert len(early) == EARLY_MAX
    assert [getattr(event, "action", None) for event in early[:2]] == [Action.PAUSE, Action.KILL]
    assert not [event for event in early if isinstance(event, Killed)]
    assert waiting.engine.state.trading is TradingState.HALTED


async def test_an_interrupted_start_lets_go_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM during a start: the locks are free for the next one."""
    monkeypatch.setattr(upkeep, "RETRY_S", 0.01)
    for _ in range(2):
        service = Service(settings_in(tmp_path))
        starting = asyncio.create_task(service.start())
        async with asyncio.timeout(20.0):
            while not hasattr(service, "market"):
                assert not starting.done(), starting.exception()
                await asyncio.sleep(0.01)
        service.request_stop()
        await service.wait()
        assert service.stop_requested
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await asyncio.wait_for(service.stop(), 10.0)


async def test_a_second_instance_is_refused_and_disturbs_nothing(waiting: Service) -> None:
    """F46: 75, and the first one's files stay as they are."""
    token = waiting.settings.state_path / "api.read.token"
    before = token.stat().st_mtime_ns if token.exists() else 0
    second = Service(waiting.settings)

    with pytest.raises(AlreadyRunning):
        await second.start()
    await second.stop()
    assert (token.stat().st_mtime_ns if token.exists() else 0) == before


async def test_a_port_in_use_ends_the_start_and_the_ledger_is_closed(tmp_path: Path, waiting: Service) -> None:
    """A start that fails half-way leaves no lock behind."""
    taken = settings_in(tmp_path / "other", metrics=waiting.scrape.address)
    for _ in range(2):
        service = Service(taken)
        with pytest.raises(ConfigError):
            await service.start()
        await service.stop()


async def test_resume_starts_what_had_failed_again(waiting: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who resumes after a fault wants the task back, not a daemon that looks alive."""
    runs: list[str] = []

    async def run() -> None:
        runs.append("run")
        await asyncio.Event().wait()

    waiting._trading["feed"] = run
    monkeypatch.setattr(waiting.supervisor, "failed", lambda: ["feed", "api"])
    waiting.command(Action.RESUME, "test")
    await asyncio.sleep(0)

    assert runs == ["run"]
