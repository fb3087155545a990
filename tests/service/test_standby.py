"""A standby: what it says, what it takes, what it leaves alone, and how it ends."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from daemon.domain.errors import AlreadyRunning, ConfigError
from daemon.domain.events import Action
from daemon.edge.clock import Clock
from daemon.edge.ledger import SqlLedger
from daemon.edge.ledger_store import Superseded
from daemon.service import standby, upkeep
from daemon.service.lifecycle import Service
from daemon.service.wiring import ledger_config
from daemon.settings import Settings, load_settings
from tests.e2e.kit import PAGES
from tests.edge.postgres import Server

LIMIT_S = 20.0


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def settings_in(folder: Path, **ledger: str) -> Settings:
    """Return a paper configuration whose exchange does not answer, with a standby's ledger and a kill token."""
    folder.mkdir(exist_ok=True)
    token = folder / "kill.token"
    token.write_text(secrets.token_hex(32))
    file = folder / "config.toml"
    file.write_text(
        f"""
state_dir = "{folder / "var"}"
[exchange]
rest_url = "http://127.0.0.1:9"
ws_url = "ws://127.0.0.1:9"
[ledger]
standby = true
[api]
listen = "127.0.0.1:{free_port()}"
kill_token_file = "{token}"
[metrics]
listen = "127.0.0.1:0"
[ui]
listen = ""
"""
    )
    return load_settings([file], {f"BALLAST_LEDGER__{key.upper()}": value for key, value in ledger.items()})


async def ask(settings: Settings, method: str, path: str, token: str = "") -> tuple[int, dict[str, Any]]:
    """Return status and JSON of a request, waiting for the listener."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.request(method, f"http://{settings.api.listen}{path}", headers=headers) as answer:
                    return answer.status, dict(await answer.json())
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)


@pytest.fixture
async def holder(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    """Another instance that holds the ledger in the same state folder."""
    one = SqlLedger(ledger_config(settings_in(tmp_path), "", "1"), clock=Clock())
    await one.open()
    for name in ("api.address", "api.read.token"):
        (tmp_path / "var" / name).write_text("theirs")
    yield one
    await one.close()


@pytest.fixture
async def waiting(tmp_path: Path, holder: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service that waits for it."""
    monkeypatch.setattr(upkeep, "RETRY_S", 0.01)
    monkeypatch.setattr(standby, "POLL_S", 0.02)
    service = Service(settings_in(tmp_path))
    starting = asyncio.create_task(service.start())
    assert (await ask(service.settings, "GET", "/readyz"))[0] == 503
    yield service
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await service.stop()


async def test_it_says_that_it_waits_and_for_whom(waiting: Service, tmp_path: Path) -> None:
    """Alive, never ready, HALTED; every read is answered; the files of the other instance are left alone."""
    settings = waiting.settings
    ready, answer = await ask(settings, "GET", "/readyz")
    status, shown = await ask(settings, "GET", "/api/v1/status")
    answers = [(await ask(settings, "GET", f"/api/v1/{path}"))[0] for path in PAGES]

    assert (await ask(settings, "GET", "/healthz")) == (200, {"ok": True})
    assert ready == 503
    assert [reason["code"] for reason in answer["reasons"]] == ["standby"]
    assert "another instance" in answer["reasons"][0]["detail"]
    assert (status, shown["state"], shown["causes"], shown["instance"]) == (200, "halted", ["standby"], "main")
    assert answers == [200] * len(PAGES)
    assert (await ask(settings, "GET", "/api/v1/decisions/x"))[0] == 404
    assert (tmp_path / "var" / "api.address").read_text() == "theirs"
    assert (tmp_path / "var" / "api.read.token").read_text() == "theirs"


async def test_it_takes_a_kill_and_nothing_else(waiting: Service, tmp_path: Path) -> None:
    """A kill latches this host; a pause or resume asked for today must not be carried out at a takeover next week."""
    token = (tmp_path / "kill.token").read_text()
    refused, _ = await ask(waiting.settings, "POST", "/api/v1/resume", token)
    killed, _ = await ask(waiting.settings, "POST", "/api/v1/kill", token)

    assert (refused, killed) == (403, 202)
    assert waiting.latch.is_set()
    with pytest.raises(Exception, match="is a standby and does not trade"):
        standby.Standby(
            waiting.settings,
            waiting.ledger,
            command=waiting.command,
            metrics=waiting.metrics,
            supervisor=waiting.supervisor,
        )._take(Action.RESUME, "test")


async def test_it_takes_over_when_the_holder_ends(waiting: Service, holder: SqlLedger, tmp_path: Path) -> None:
    """The same port answers on as the daemon's own API, the address and tokens are its own, the epoch is the next one."""
    await holder.close()
    async with asyncio.timeout(LIMIT_S):
        while not hasattr(waiting, "api"):
            await asyncio.sleep(0.02)
    _, answer = await ask(waiting.settings, "GET", "/readyz")

    assert "standby" not in [reason["code"] for reason in answer["reasons"]]
    assert "halted" in [reason["code"] for reason in answer["reasons"]]
    assert (tmp_path / "var" / "api.address").read_text().strip() == waiting.settings.api.listen
    assert (tmp_path / "var" / "api.read.token").read_text() != "theirs"
    assert waiting.ledger.folder_held


async def test_it_ends_when_asked_and_lets_go(holder: SqlLedger, tmp_path: Path) -> None:
    """SIGTERM while it waits: the port and every lock it had are free."""
    settings = settings_in(tmp_path)
    service = Service(settings)
    starting = asyncio.create_task(service.start())
    assert (await ask(settings, "GET", "/healthz"))[0] == 200
    service.request_stop()
    await service.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await asyncio.wait_for(service.stop(), LIMIT_S)

    with socket.create_server(("127.0.0.1", int(settings.api.listen.split(":")[1]))):
        pass
    await holder.close()
    after = SqlLedger(ledger_config(settings, "", "1"), clock=Clock())
    assert (await after.open()).epoch == 2
    await after.close()


async def test_without_standby_a_second_instance_ends(holder: SqlLedger, tmp_path: Path) -> None:
    """75, as ever."""
    service = Service(settings_in(tmp_path, standby="false"))
    with pytest.raises(AlreadyRunning):
        await service.start()
    await service.stop()


async def test_a_port_that_is_taken_ends_it(holder: SqlLedger, tmp_path: Path) -> None:
    """Two instances on one machine need two ports: one line that names the key."""
    settings = settings_in(tmp_path)
    with socket.create_server(("127.0.0.1", int(settings.api.listen.split(":")[1]))):
        service = Service(settings)
        with pytest.raises(ConfigError, match=r"api\.listen"):
            await service.start()
        await service.stop()


async def test_a_server_that_is_away_is_waited_for(
    tmp_path: Path, postgres: Server, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby whose database restarts says so and goes on waiting; it takes over when it can."""
    monkeypatch.setattr(standby, "POLL_S", 0.02)
    monkeypatch.setattr(upkeep, "RETRY_S", 0.01)
    url = postgres.url(postgres_database)
    (tmp_path / "other").mkdir()
    first = SqlLedger(ledger_config(settings_in(tmp_path / "other", url=url), "", "1"), clock=Clock())
    await first.open()
    service = Service(settings_in(tmp_path, url=url))
    starting = asyncio.create_task(service.start())
    try:
        assert (await ask(service.settings, "GET", "/healthz"))[0] == 200
        postgres.stop()
        async with asyncio.timeout(LIMIT_S):
            while "connection" not in str((await ask(service.settings, "GET", "/readyz"))[1]):
                await asyncio.sleep(0.02)
        await first.close()
        await asyncio.to_thread(postgres.start)
        async with asyncio.timeout(LIMIT_S):
            while not hasattr(service, "api"):
                await asyncio.sleep(0.02)
    finally:
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await service.stop()


async def test_a_daemon_that_lost_its_ledger_stops(tmp_path: Path) -> None:
    """F46: told once, it sends nothing more and ends with 75."""
    service = Service(settings_in(tmp_path, standby="false"))
    service._lost(Superseded("another instance has taken over"))

    assert service.stop_requested
    assert isinstance(service.fatal, AlreadyRunning)
    assert service.fatal.exit_code == 75
    assert service._stopping
    await service.stop()
