"""A start that must not happen: the process ends with the contract's exit code and one clear line, and nothing was sent.

Unknown pair, rejected key, a key that may withdraw and `check --online` have such tests in tests/cli/test_start.py.
"""

import socket
from typing import Any

import pytest

from tests.e2e.conftest import MakeDaemon, MakeExchange
from tests.e2e.kit import SECRET, Daemon, Exchange, only_line, until

SMALL: dict[str, Any] = {"universe": ["BTC/USDT", "ETH/USDT"], "optimizer": {"fully_invested": False}}


@pytest.fixture(scope="module")
def market() -> Any:
    """Two markets; no test changes anything on them."""
    with Exchange(symbols=2, history_bars=300) as exchange:
        yield exchange


def refused(daemon: Daemon, code: int, *wanted: str, command: str = "run") -> str:
    """Run a command that must end with this code and one line that holds these words; return the line."""
    done = daemon.cli(*command.split())
    line = only_line(done.stderr)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    for word in wanted:
        assert word in line, line
    assert SECRET not in done.stderr
    assert daemon.exchange.orders_sent() == []
    return line


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"risk": {"max_weigth": 0.1}}, ("risk.max_weigth", 'did you mean "max_weight"?')),
        ({"risk": {"max_weight": "0.3"}}, ("risk.max_weight", "must be a number without quotes")),
        ({"risk": {"max_weight": 3.0}}, ("risk.max_weight", "must be at most 1")),
        ({"risk": {"max_weight": 0.3}, "optimizer": {"fully_invested": True}}, ("max_weight", "fully_invested")),
        ({"exchange": {"id": "binanse"}}, ("exchange.id", "binanse")),
        ({"exchange": {"rest_url": "http://10.0.0.1"}}, ("exchange.rest_url", "https://")),
        ({"exchange": {"ws_url": "ws://example.com"}}, ("exchange.ws_url", "wss://")),
        ({"feed": {"grace_ms": 600}}, ("feed.grace_ms", "half of bar")),
    ],
)  # fmt: skip
def test_f58_a_configuration_that_cannot_be_right_is_78(
    market: Exchange, make_daemon: MakeDaemon, changes: dict[str, Any], wanted: tuple[str, ...]
) -> None:
    """F58: unknown key, wrong type, impossible limit, unknown exchange or pair, plain text off this host: 78 names it."""
    refused(make_daemon(market, **{**SMALL, **changes}), 78, *wanted)


def test_missing_keys_are_78(market: Exchange, make_daemon: MakeDaemon) -> None:
    """Live mode without a key names the variable to set."""
    daemon = make_daemon(market, **SMALL)
    del daemon.env["BALLAST_EXCHANGE__API_KEY"]
    refused(daemon, 78, "exchange.api_key: missing", "BALLAST_EXCHANGE__API_KEY")


def test_a_rejected_secret_is_78(market: Exchange, make_daemon: MakeDaemon) -> None:
    """A signature that does not verify ends the start."""
    daemon = make_daemon(market, **SMALL)
    daemon.env["BALLAST_EXCHANGE__API_SECRET"] = "wrong" + SECRET
    refused(daemon, 78, "exchange.api_key: refused", "Signature", "check that key and secret belong together")


def test_p17_live_without_confirmation_is_77(market: Exchange, make_daemon: MakeDaemon) -> None:
    """P17: nothing at all is asked of the exchange before."""
    before = len(market.requests())
    refused(make_daemon(market, live_confirm="", **SMALL), 77, 'set live_confirm = "main"')
    assert len(market.requests()) == before


def test_an_unwritable_state_folder_is_78(market: Exchange, make_daemon: MakeDaemon) -> None:
    """A folder that cannot be made names the key."""
    daemon = make_daemon(market, **SMALL)
    (daemon.folder / "file").write_text("")
    daemon.env["BALLAST_STATE_DIR"] = str(daemon.folder / "file" / "var")
    refused(daemon, 78, "state_dir", "not writable")


def test_a_port_in_use_is_78(market: Exchange, make_daemon: MakeDaemon) -> None:
    """The key and the address are named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(make_daemon(market, **SMALL, api={"listen": address}), 78, "api.listen", address)


@pytest.mark.parametrize("command", ["train", "reconcile"])
def test_an_unreachable_exchange_is_69_for_one_shot_commands(
    market: Exchange, make_daemon: MakeDaemon, command: str
) -> None:
    """Bounded retries, then one line; `reconcile` needs a ledger first and says that."""
    gone = {"exchange": {"rest_url": "http://127.0.0.1:9", "ws_url": "ws://127.0.0.1:9"}}
    daemon = make_daemon(market, **SMALL, **gone)
    if command == "reconcile":
        refused(daemon, 78, "ledger", "ballast run", command=command)
    else:
        refused(daemon, 69, "exchange", command=command)


def test_an_unreachable_exchange_is_waited_for_under_run(market: Exchange, make_daemon: MakeDaemon) -> None:
    """`run` keeps asking, healthy but not ready, and still ends in order."""
    gone = {"exchange": {"rest_url": "http://127.0.0.1:9", "ws_url": "ws://127.0.0.1:9"}}
    daemon = make_daemon(market, **SMALL, **gone).start()
    until(lambda: len(daemon.events("waiting for the exchange")) >= 1, what="patience", why=daemon.tail)
    assert daemon.get("/healthz")[0] == 200
    assert daemon.readiness()[0] == 503
    code, seconds = daemon.stop()
    assert code == 0
    assert seconds < 10


def test_no_history_ends_training_in_one_line(make_exchange: MakeExchange, make_daemon: MakeDaemon) -> None:
    """`train` on a market without candles exits 1 and names the pairs; nothing is published."""
    exchange = make_exchange(symbols=2, history_bars=300)
    exchange.fault("GET /api/v3/klines", "replace", times=0, text="[]")
    daemon = make_daemon(exchange, **SMALL, forecast={"model": "lstm", "train_bars": 500})
    done = daemon.cli("train")
    last = [line for line in done.stderr.splitlines() if not line.startswith("{")][-1]

    assert done.returncode == 1
    assert "no history for BTC/USDT, ETH/USDT" in last
    assert "Traceback" not in done.stderr
    assert not list((daemon.state_dir / "models").glob("*/manifest.json"))


def test_no_history_under_run_is_not_ready_and_heals(make_exchange: MakeExchange, make_daemon: MakeDaemon) -> None:
    """Without history nothing is decided and the reason is told; with it trading begins by itself (I16)."""
    exchange = make_exchange(symbols=2, history_bars=300)
    rule = exchange.fault("GET /api/v3/klines", "error", times=0, status=500)
    daemon = make_daemon(exchange, **SMALL).start()
    until(lambda: exchange.fired(rule) >= 4, timeout_s=40, what="attempts", why=daemon.tail)
    assert daemon.readiness()[0] == 503
    assert exchange.orders_sent() == []
    exchange.heal()
    daemon.wait_ready()
