"""Commands against a real API server, a real latch and a real simulated exchange."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.domain.events import Action
from daemon.outlets.api import Api, Reason
from daemon.outlets.listener import make_tokens

REPO = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]


class Shown:
    """A reader of a daemon that holds one position."""

    def not_ready(self) -> Sequence[Reason]:
        """Ready."""
        return ()

    def status(self) -> Mapping[str, Any]:
        """State."""
        return {"state": "active", "mode": "paper"}

    def positions(self) -> Sequence[Any]:
        """One."""
        return [{"symbol": "BTC/USDT", "qty": Decimal("0.10"), "weight": 0.25}]

    def orders(self, limit: int) -> Sequence[Any]:
        """None."""
        return []

    def equity(self, limit: int) -> Mapping[str, Any]:
        """Equity and its curve."""
        return {"equity": Decimal(1000), "curve": [1, 2]}

    def __getattr__(self, name: str) -> Any:
        """The rest is not read here."""
        raise AssertionError(name)


@contextlib.asynccontextmanager
async def daemon_api(state_path: Path) -> AsyncIterator[list[Action]]:
    """Serve the API of a daemon; yield the commands it gets."""
    commands: list[Action] = []

    def submit(action: Action, source: str) -> str:
        commands.append(action)
        return "id"

    reader: Any = Shown()
    api = Api("127.0.0.1:0", reader, submit, tokens=make_tokens(state_path, {}), state_path=state_path)
    api.bind()
    task = asyncio.get_running_loop().create_task(api.serve())
    try:
        yield commands
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=5)
        api.close()


@pytest.fixture(autouse=True)
def ephemeral(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's port is the system's choice; the commands find it in the state folder."""
    monkeypatch.setenv("BALLAST_API__LISTEN", "127.0.0.1:0")


async def test_reading_and_controlling(ballast: Run, tmp_path: Path) -> None:
    """Every read and command reaches the daemon with the token it wrote."""
    async with daemon_api(tmp_path / "var") as commands:

        async def call(*arguments: str) -> tuple[int, str, str]:
            return await asyncio.to_thread(ballast, *arguments)

        code, out, _ = await call("status", "--json")
        assert (code, json.loads(out)) == (0, {"state": "active", "mode": "paper", "ready": True, "reasons": []})
        assert (await call("status"))[1].splitlines()[0] == "state    active"
        assert (await call("positions"))[1].splitlines() == ["symbol    qty   weight", "BTC/USDT  0.10  0.25"]
        assert (await call("orders"))[1] == "no orders\n"
        assert (await call("pnl"))[1] == "equity  1000\n"
        for command in ("pause", "resume", "reduce-only", "flatten"):
            code, out, err = await call(command, "--json")
            assert (code, err) == (0, "")
            assert json.loads(out)["ok"] is True
        code, out, _ = await call("kill", "--json")
        assert code == 0
        assert json.loads(out)["daemon"] is True
        (tmp_path / "var/api.control.token").write_text("wrong")
        assert (await call("pause"))[0] == 77

    assert commands == [Action.PAUSE, Action.RESUME, Action.REDUCE_ONLY, Action.FLATTEN, Action.KILL]


def test_kill_and_clear_without_a_daemon(ballast: Run, tmp_path: Path) -> None:
    """The latch is written; only --clear-kill lifts it."""
    latch = tmp_path / "var/KILL"
    code, out, _ = ballast("kill", "--json")
    assert code == 0
    assert json.loads(out)["daemon"] is False
    assert latch.exists()

    code, _, err = ballast("resume")
    assert code == 77
    assert "resume --clear-kill" in err
    assert latch.exists()

    code, out, _ = ballast("resume", "--clear-kill", "--json")
    assert (code, json.loads(out)["detail"]) == (0, "kill latch lifted; no daemon is running")
    assert not latch.exists()


async def test_kill_in_live_mode_cancels_by_itself(
    ballast: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a daemon our resting orders are cancelled at the exchange, and nobody else's."""
    from daemon.core.planner import client_prefix
    from daemon.edge.rest import make_exchange
    from daemon.exchange.config import SimConfig
    from daemon.exchange.server import SimulatedExchange

    simulated = SimulatedExchange(SimConfig(symbols=2, history_bars=200))
    port = await simulated.start()
    base = f"127.0.0.1:{port}"
    client = make_exchange(
        "binance", rest_url=f"http://{base}", ws_url=f"ws://{base}", api_key="sim-key", api_secret="sim-secret"
    )
    try:
        await client.load_markets()
        symbol = client.symbols[0]
        price = client.price_to_precision(symbol, (await client.fetch_ticker(symbol))["bid"] * 0.9)
        amount = client.amount_to_precision(symbol, 200 / float(price))
        for name in (client_prefix("main") + "a" * 21, "somebodyelse"):
            await client.create_order(symbol, "limit", "buy", amount, price, {"newClientOrderId": name})
        for name, value in (
            ("STATE_DIR", str(tmp_path / "var")),
            ("EXCHANGE__REST_URL", f"http://{base}"),
            ("EXCHANGE__WS_URL", f"ws://{base}"),
            ("EXCHANGE__API_KEY", "sim-key"),
            ("EXCHANGE__API_SECRET", "sim-secret"),
        ):
            monkeypatch.setenv(f"BALLAST_{name}", value)
        code, out, err = await asyncio.to_thread(ballast, "kill", "--json", "-c", str(REPO / "config/live.toml"))
        left = [order["clientOrderId"] for order in await client.fetch_open_orders(symbol)]
    finally:
        await client.close()
        await simulated.stop()

    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert (answer["cancelled"], answer["left"]) == (1, 0)
    assert left == ["somebodyelse"]


async def test_a1_kill_without_a_daemon_cancels_fifty_orders_ten_at_a_time(
    ballast: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel that takes long holds up no other; a refused one is repeated; a ban is told, not waited for (I11)."""
    from daemon.core.planner import client_prefix
    from daemon.exchange.config import SimConfig
    from daemon.exchange.faults import FaultRule
    from daemon.exchange.server import SimulatedExchange
    from tests.edge.test_watchdog import cancels, open_ids, place

    sim = SimulatedExchange(SimConfig(symbols=2, history_bars=60))
    port = await sim.start()
    prefix = client_prefix("main")
    for name, value in (
        ("STATE_DIR", str(tmp_path / "var")),
        ("EXCHANGE__REST_URL", f"http://127.0.0.1:{port}"),
        ("EXCHANGE__WS_URL", f"ws://127.0.0.1:{port}"),
        ("EXCHANGE__API_KEY", "sim-key"),
        ("EXCHANGE__API_SECRET", "sim-secret"),
    ):
        monkeypatch.setenv(f"BALLAST_{name}", value)
    live = str(REPO / "config/live.toml")

    def fault(**rule: object) -> None:
        sim.faults.add(msgspec.convert({"match": "DELETE /api/v3/order", **rule}, FaultRule))

    try:
        for number in range(50):
            place(sim, f"{prefix}{number}", "BTC/USDT")
        place(sim, "somebodyelse", "BTC/USDT")
        fault(action="delay", seconds=1.5, times=2)
        fault(action="error", status=500, code=-1000, times=1, after=5)
        code, out, _ = await asyncio.to_thread(ballast, "kill", "--json", "-c", live)
        first, second = [seen.ns for seen in sim.requests if seen.method == "DELETE"][:2]
        sent = cancels(sim)
        place(sim, f"{prefix}late", "BTC/USDT")
        fault(action="error", status=418, code=-1003, headers={"Retry-After": "900"}, times=1)
        banned = await asyncio.to_thread(ballast, "kill", "--json", "-c", live)
        asked = len(sim.requests)
        again = await asyncio.to_thread(ballast, "kill", "--json", "-c", live)
    finally:
        await sim.stop()

    answer = json.loads(out)
    assert (code, answer["ok"], answer["cancelled"], answer["left"]) == (0, True, 50, 0)
    assert second - first < 1_500_000_000  # the second did not wait for the first one's answer
    assert sent == 51
    assert open_ids(sim, "somebodyelse") == ["somebodyelse"]
    assert banned[0] == again[0] == 69
    assert "wants quiet for another 900 s" in json.loads(banned[1])["detail"]
    assert "wants quiet for another" in json.loads(again[1])["detail"]
    assert len(sim.requests) == asked


def test_config_prints_what_is_loaded(ballast: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and variables resolved, secrets as asterisks; ./config/paper.toml is found by itself."""
    monkeypatch.setenv("BALLAST_MODE", "live")
    monkeypatch.setenv("BALLAST_EXCHANGE__API_KEY", "MARKERkey")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/paper.toml").write_text("[risk]\nmax_weight = 0.11\n")
    code, out, _ = ballast("config")

    assert code == 0
    assert json.loads(out)["risk"]["max_weight"] == 0.11
    assert json.loads(out)["exchange"]["api_key"] == "**********"
    assert "MARKERkey" not in out
    assert json.loads(ballast("config", "--schema")[1])["properties"]["mode"]["enum"] == ["paper", "live"]


def test_no_models_yet(ballast: Run) -> None:
    """An empty registry says how to fill it."""
    assert ballast("models", "list", "--json") == (0, '{\n  "models": []\n}\n', "")
    assert "ballast train" in ballast("models", "list")[1]
    code, _, err = ballast("models", "show")
    assert code == 78
    assert "ballast train" in err


def test_help_names_every_command(ballast: Run) -> None:
    """Grouped; nothing that does not exist yet."""
    code, out, _ = ballast("--help")

    assert code == 0
    for name in (
        "run",
        "demo",
        "simulate",
        "check",
        "config",
        "train",
        "models",
        "replay",
        "status",
        "kill",
        "reconcile",
    ):
        assert f" {name} " in out
    assert ballast("--version")[1].startswith("ballast ")
