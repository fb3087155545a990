"""The HTTP API: scopes, hosts, bodies, readiness, commands."""

import asyncio
import contextlib
import html
import stat
from collections.abc import AsyncGenerator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.domain.errors import ConfigError
from daemon.domain.events import Action
from daemon.outlets.api import Api, Reason
from daemon.outlets.listener import BODY_BYTES_MAX, Listener, Tokens, make_tokens
from daemon.outlets.rates import RATES, Rate, Rates

READ, CONTROL, KILL = "r" * 43, "c" * 43, "k" * 43
READS = ("status", "positions", "orders", "fills", "decisions", "equity", "risk", "config", "forecasts", "models")
COMMANDS = ("pause", "resume", "reduce-only", "flatten", "kill")
T = 1_700_000_000_123_456_789


class Shown:
    """A reader with one row of everything."""

    def __init__(self) -> None:
        self.reasons: list[Reason] = []

    def not_ready(self) -> Sequence[Reason]:
        """What the test put there."""
        return self.reasons

    def status(self) -> Mapping[str, Any]:
        """A ratio that is no number and an instant."""
        return {"state": "active", "drawdown": float("nan"), "ts_ns": T, "took_ns": 5}

    def positions(self) -> Sequence[Any]:
        """Money."""
        return [{"symbol": "BTC/USDT", "qty": Decimal("0.10")}]

    def orders(self, limit: int) -> Sequence[Any]:
        """As many rows as asked for."""
        return [{"n": n} for n in range(limit)]

    def fills(self, limit: int) -> Sequence[Any]:
        """None."""
        return []

    def decisions(self, limit: int) -> Sequence[Any]:
        """None."""
        return []

    def decision(self, decision_id: str) -> Any | None:
        """One is known."""
        return {"id": decision_id} if decision_id == "bar-1-1" else None

    def equity(self, limit: int) -> Mapping[str, Any]:
        """Equity."""
        return {"equity": Decimal("1000.5"), "curve": []}

    def risk(self) -> Mapping[str, Any]:
        """Limits."""
        return {"limits": {}}

    def config(self) -> Mapping[str, Any]:
        """Configuration."""
        return {"mode": "paper"}

    def bars(self, pair: str, limit: int) -> Sequence[Any] | None:
        """One pair is known."""
        return [] if pair == "BTC/USDT" else None

    def forecasts(self) -> Sequence[Any]:
        """None."""
        return []

    def models(self) -> Sequence[Any]:
        """None."""
        return []


class Daemon:
    """What the API hands commands to."""

    def __init__(self, state_path: Path) -> None:
        self.reader = Shown()
        self.commands: list[tuple[Action, str]] = []
        self.latch = state_path / "KILL"
        self.latched_first = False

    def submit(self, action: Action, source: str) -> str:
        """Keep the command."""
        self.latched_first = self.latch.exists()
        self.commands.append((action, source))
        return f"id{len(self.commands)}"


@contextlib.asynccontextmanager
async def serving(listener: Listener) -> AsyncGenerator[None]:
    """Serve while the block runs."""
    listener.bind()
    task = asyncio.get_running_loop().create_task(listener.serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=5)
        listener.close()


@contextlib.asynccontextmanager
async def running(
    state_path: Path, *, read_configured: bool = False, listen: str = "127.0.0.1:0", rates: Rates | None = None
) -> AsyncGenerator[tuple[httpx.AsyncClient, Daemon]]:
    """A served API and a client of it without a token."""
    daemon = Daemon(state_path)
    tokens = Tokens({"read": READ, "control": CONTROL, "kill": KILL}, read_configured=read_configured)
    api = Api(listen, daemon.reader, daemon.submit, tokens=tokens, state_path=state_path, rates=rates)
    async with serving(api), httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}", trust_env=False) as client:
        yield client, daemon


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


async def test_health_and_readiness(tmp_path: Path) -> None:
    """Alive is alive; ready depends on the reasons."""
    async with running(tmp_path, read_configured=True) as (client, daemon):
        assert (await client.get("/healthz")).json() == {"ok": True}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
        daemon.reader.reasons.append(Reason("stale_data", "BTC/USDT 4.0 s"))
        late = await client.get("/readyz")

    assert late.status_code == 503
    assert late.json() == {"ready": False, "reasons": [{"code": "stale_data", "detail": "BTC/USDT 4.0 s"}]}


async def test_reads_on_loopback_are_open(tmp_path: Path) -> None:
    """Without a configured token everything may be read on this machine."""
    async with running(tmp_path) as (client, _):
        for path in READS:
            assert (await client.get(f"/api/v1/{path}")).status_code == 200, path
        status = (await client.get("/api/v1/status")).json()
        assert (await client.get("/api/v1/bars/BTC-USDT")).status_code == 200
        assert (await client.get("/api/v1/bars/BTC/USDT")).status_code == 200
        assert (await client.get("/api/v1/bars/DOGE-USDT")).status_code == 404
        assert (await client.get("/api/v1/decisions/bar-1-1")).json() == {"id": "bar-1-1"}
        assert (await client.get("/api/v1/decisions/nothing")).status_code == 404
        assert (await client.get("/api/docs")).status_code == 200
        assert len((await client.get("/api/v1/orders?limit=7")).json()["orders"]) == 7
        assert (await client.get("/api/v1/orders?limit=100000")).status_code == 422
        assert (await client.get("/api/v1/positions")).json()["positions"][0]["qty"] == "0.10"

    assert status["drawdown"] is None
    assert status["ts_ns"] == T
    assert status["ts_iso"] == "2023-11-14T22:13:20.123Z"
    assert "took_iso" not in status
    assert status["ready"] is True


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0"])
async def test_reads_need_a_token_when_configured_or_off_loopback(tmp_path: Path, listen: str) -> None:
    """Then the documentation needs one too; read and control tokens open reads, the kill token does not."""
    async with running(tmp_path, read_configured=listen.startswith("127"), listen=listen) as (client, _):
        for path in ("/api/v1/status", "/api/docs", "/api/openapi.json"):
            refused = await client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert (await client.get(path, headers=bearer("x" * 43))).status_code == 401
            assert (await client.get(path, headers=bearer(READ))).status_code == 200
            assert (await client.get(path, headers=bearer(CONTROL))).status_code == 200
            assert (await client.get(path, headers=bearer(KILL))).status_code == 403
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200


async def test_commands_need_their_scope(tmp_path: Path) -> None:
    """Always a token: control for all but kill, kill for kill alone."""
    async with running(tmp_path) as (client, daemon):
        for path in COMMANDS:
            url = f"/api/v1/{path}"
            right, wrong = (KILL, CONTROL) if path == "kill" else (CONTROL, KILL)
            assert (await client.post(url)).status_code == 401
            assert (await client.post(url, headers={"Authorization": f"Basic {right}"})).status_code == 401
            assert (await client.post(url, headers=bearer(READ))).status_code == 403
            assert (await client.post(url, headers=bearer(wrong))).status_code == 403
            assert not daemon.commands
            answer = await client.post(url, headers=bearer(right))
            assert answer.status_code == 202
            assert answer.json()["id"] == "id1"
            assert daemon.commands.pop()[1] == "api"


async def test_kill_latches_before_anything_else(tmp_path: Path) -> None:
    """The latch is there when the command is submitted, and only then."""
    async with running(tmp_path) as (client, daemon):
        await client.post("/api/v1/flatten", headers=bearer(CONTROL))
        assert not daemon.latch.exists()
        await client.post("/api/v1/kill", headers=bearer(KILL))

    assert daemon.latched_first
    assert [action for action, _ in daemon.commands] == [Action.FLATTEN, Action.KILL]


async def test_foreign_hosts_are_refused(tmp_path: Path) -> None:
    """A web page that rebinds its name to 127.0.0.1 gets nothing."""
    async with running(tmp_path) as (client, _):
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
            assert (await client.get("/api/v1/status", headers={"Host": host})).status_code == 421
        for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
            assert (await client.get("/api/v1/status", headers={"Host": host})).status_code == 200


async def test_large_bodies_are_refused(tmp_path: Path) -> None:
    """By their announced length, and by their real one when none is announced."""

    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(BODY_BYTES_MAX // 1024 + 2):
            yield b"x" * 1024

    async with running(tmp_path) as (client, daemon):
        url = "/api/v1/pause"
        announced = await client.post(url, headers=bearer(CONTROL), content=b"x" * (BODY_BYTES_MAX + 1))
        streamed = await client.post(url, headers=bearer(CONTROL), content=chunks())
        small = await client.post(url, headers=bearer(CONTROL), content=b"{}")

    assert (announced.status_code, streamed.status_code, small.status_code) == (413, 413, 202)
    assert len(daemon.commands) == 1


async def test_a_failing_reader_is_one_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exception becomes a 500 without details; the server goes on."""
    async with running(tmp_path) as (client, daemon):
        daemon.reader.status = None  # type: ignore[method-assign, assignment]
        failed = await client.get("/api/v1/status")
        fine = await client.get("/api/v1/risk")

    assert failed.status_code == 500
    assert failed.json() == {"detail": "internal error: TypeError; the log has it"}
    assert fine.status_code == 200


async def test_address_file_lives_as_long_as_the_server(tmp_path: Path) -> None:
    """With port 0 the command line finds the daemon by it."""
    async with running(tmp_path) as (client, _):
        written = (tmp_path / "api.address").read_text().strip()
        assert str(client.base_url).rstrip("/") == f"http://{written}"

    assert not (tmp_path / "api.address").exists()


def test_random_tokens_are_private_and_fresh(tmp_path: Path) -> None:
    """One file per scope, mode 0600, 256 bits, new at every start."""
    tokens = make_tokens(tmp_path, {})
    texts = {scope: (tmp_path / f"api.{scope}.token").read_text().strip() for scope in ("read", "control", "kill")}

    assert len(set(texts.values())) == 3
    assert all(len(text) >= 43 and tokens.allows(scope, text) for scope, text in texts.items())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())
    assert not tokens.read_configured
    assert not make_tokens(tmp_path, {}).allows("control", texts["control"])


def test_configured_tokens(tmp_path: Path) -> None:
    """A file per scope; short, missing or equal ones are refused."""
    good, short = tmp_path / "good", tmp_path / "short"
    good.write_text("g" * 40 + "\n")
    short.write_text("secret")

    assert make_tokens(tmp_path, {"read": str(good)}).read_configured
    assert make_tokens(tmp_path, {"read": str(good)}).allows("read", "g" * 40)
    assert not (tmp_path / "api.read.token").exists()
    with pytest.raises(ConfigError, match=r"api\.control_token_file .*shorter than 32"):
        make_tokens(tmp_path, {"control": str(short)})
    with pytest.raises(ConfigError, match=r"api\.kill_token_file .*cannot be read"):
        make_tokens(tmp_path, {"kill": str(tmp_path / "absent")})
    with pytest.raises(ConfigError, match="must differ"):
        make_tokens(tmp_path, {"read": str(good), "kill": str(good)})


def test_port_in_use(tmp_path: Path) -> None:
    """One line that names the key and the address, exit code 78."""

    async def nothing(*_: object) -> None:
        """An application that is never called."""

    first = Listener("api.listen", "127.0.0.1:0", nothing)
    first.bind()
    second = Listener("metrics.listen", first.address, nothing)
    try:
        with pytest.raises(ConfigError, match=r'metrics\.listen = "127.*in use.*another port') as caught:
            second.bind()
    finally:
        first.close()

    assert caught.value.exit_code == 78
    with pytest.raises(ConfigError, match="cannot listen there"):
        Listener("api.listen", "203.0.113.1:1", nothing).bind()


async def test_signals_are_left_alone(tmp_path: Path) -> None:
    """Serving does not take the process's SIGTERM and SIGINT."""
    import signal

    before = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    async with running(tmp_path) as (client, _):
        await client.get("/healthz")
        during = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))

    assert during == before


def slow() -> Rates:
    """Buckets of the usual size that do not fill again while a test runs."""
    return Rates({kind: Rate(1e-3, rate.burst) for kind, rate in RATES.items()})


async def test_too_many_requests_are_told_when_to_come_again(tmp_path: Path) -> None:
    """F67: a client that floods gets 429 with Retry-After, and what it asks in vain does nothing."""
    async with running(tmp_path, rates=slow()) as (client, daemon):
        flood = [await client.post("/api/v1/pause", headers=bearer(CONTROL)) for _ in range(60)]
        refused = [answer for answer in flood if answer.status_code == 429]
        reads = await client.get("/api/v1/status")

    assert [answer.status_code for answer in flood] == [202] * 20 + [429] * 40
    assert len(daemon.commands) == len(flood) - len(refused)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert "try again in" in refused[0].json()["detail"]
    assert reads.status_code == 200


async def test_a_flood_does_not_keep_a_kill_out(tmp_path: Path) -> None:
    """F67, A1: guessing tokens, commands and reads beyond their rates leave the kill its own."""
    async with running(tmp_path, rates=slow()) as (client, daemon):
        guesses = [await client.post("/api/v1/kill", headers=bearer("x" * 43)) for _ in range(60)]
        for _ in range(60):
            await client.post("/api/v1/resume", headers=bearer(CONTROL))
        reads = await asyncio.gather(*(client.get("/api/v1/status") for _ in range(300)))
        kill = await client.post("/api/v1/kill", headers=bearer(KILL))

    assert {answer.status_code for answer in guesses} == {401, 429}
    assert 429 in {answer.status_code for answer in reads}
    assert kill.status_code == 202
    assert daemon.commands[-1] == (Action.KILL, "api")


async def test_a_flood_without_a_token_keeps_no_reader_out_that_shows_one(tmp_path: Path) -> None:
    """F67: on loopback all share one address; an operator's token has a bucket of its own."""
    async with running(tmp_path, rates=slow()) as (client, _):
        flood = [await client.get("/api/v1/status") for _ in range(120)]
        mine = await client.get("/api/v1/status", headers=bearer(READ))
        forged = await client.get("/api/v1/status", headers=bearer("x" * 43))

    assert {answer.status_code for answer in flood} == {200, 429}
    assert (mine.status_code, forged.status_code) == (200, 429)


async def test_a_client_cannot_give_itself_another_address(tmp_path: Path) -> None:
    """F67: what a header says about where a request comes from opens no fresh bucket."""
    async with running(tmp_path, rates=slow()) as (client, _):
        answers = [
            await client.post("/api/v1/pause", headers={**bearer(CONTROL), "X-Forwarded-For": f"10.0.0.{number}"})
            for number in range(40)
        ]

    assert [answer.status_code for answer in answers] == [202] * 20 + [429] * 20


async def test_the_documentation_needs_no_other_host(tmp_path: Path) -> None:
    """`/api/docs` works offline: no script, no address but our own, every path with its scope."""
    async with running(tmp_path) as (client, _):
        answer = await client.get("/api/docs")
        schema = (await client.get("/api/openapi.json")).json()

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in answer.text
    assert "//" not in answer.text.replace("<!doctype html>", "")
    assert all(html.escape(path) in answer.text for path in schema["paths"])
    assert "scope kill" in answer.text
    assert "from 1, to 1000, default 100" in answer.text


async def test_the_documentation_is_guarded_like_everything_else(tmp_path: Path) -> None:
    """DESIGN A5: where reads need a token, the documentation does too."""
    async with running(tmp_path, read_configured=True) as (client, _):
        closed = await client.get("/api/docs")
        opened = await client.get("/api/docs", headers=bearer(READ))

    assert (closed.status_code, opened.status_code) == (401, 200)
