"""Benchmarks import, run at their tiniest size and return what their tables need; nothing here judges speed."""

import asyncio
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import close_to_order, snapshot, ticks
from benchmarks.alone import alone
from benchmarks.line import publish_model, settings_for, trading, universe, venue_options
from benchmarks.venue import TRADE, running
from daemon.domain.events import Decide, Decided
from daemon.domain.signal import NoDecision, NoReason


@pytest.mark.parametrize("name", command.NAMES)
def test_every_benchmark_can_be_run_by_name(name: str) -> None:
    """Each is a module with `run` and `main`."""
    module = import_module(f"benchmarks.{name}")

    assert callable(module.run)
    assert callable(module.main)


def test_one_alone_takes_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """Options have the type of their default and come to `run` by name; a table is printed, or JSON."""
    shown: list[dict[str, Any]] = []

    def run(**chosen: object) -> dict[str, Any]:
        return dict(chosen)

    defaults: dict[str, Any] = {"rounds": 3, "seconds": 60.0, "assets": (10, 100)}
    assert alone(run, shown.append, ["--seconds", "2"], about="", **defaults) == 0
    assert alone(run, shown.append, ["--assets", "7", "8", "--json"], about="", **defaults) == 0

    assert shown == [{"rounds": 3, "seconds": 2.0, "assets": [10, 100]}]
    assert json.loads(capsys.readouterr().out) == {"rounds": 3, "seconds": 60.0, "assets": [7, 8]}


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says which there are."""
    with pytest.raises(SystemExit):
        command.main(["sppeed"])

    assert "unknown benchmark sppeed" in capsys.readouterr().err


def test_a_benchmark_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is printed and kept, and the exit code says so."""
    monkeypatch.setattr(command, "RESULTS", tmp_path / "b" / "results.json")
    monkeypatch.setattr(command, "measure", lambda name: {"error": "boom"} if name == "ticks" else {"x": 1})

    assert command.main(["ticks", "start"]) == 1
    assert json.loads(command.RESULTS.read_text()) == {"ticks": {"error": "boom"}, "start": {"x": 1}}


async def test_the_venue_stamps_orders_on_arrival(tmp_path: Path) -> None:
    """The kernel's stamp of each order's last byte comes back under its client id, in order and between our own clocks."""
    import time

    from benchmarks.line import KEY, SECRET
    from daemon.edge.rest import make_exchange

    async with running(tmp_path, **venue_options(1, trades_per_s=1)) as venue:
        exchange = make_exchange(
            "binance", rest_url=f"http://{venue.base}", api_key=KEY, api_secret=SECRET, limited=False
        )
        try:
            await exchange.load_markets()
            price = (await exchange.fetch_ticker("BTC/USDT"))["last"]
            stamps = [time.time_ns()]
            for number in range(2):
                params = {"clientOrderId": f"t{number}", "timeInForce": "IOC"}
                limit = exchange.price_to_precision("BTC/USDT", price * 1.01)
                await exchange.create_order("BTC/USDT", "limit", "buy", 0.01, limit, params)
                stamps.append(time.time_ns())
        finally:
            await exchange.close()

    assert stamps[0] < venue.orders["t0"] < stamps[1] < venue.orders["t1"] < stamps[2]


async def test_the_configuration_is_valid_and_the_model_loads(tmp_path: Path) -> None:
    """The daemon accepts what the benchmark gives it."""
    from strategies.artifact import current, load_artifact

    symbols = universe(10)
    settings = settings_for("127.0.0.1:1", symbols, tmp_path, every=2)
    await publish_model(tmp_path, symbols)
    folder = current(settings.state_path / "models")

    assert settings.universe == symbols
    assert folder is not None
    assert load_artifact(folder).manifest.symbols == symbols


def passage() -> Any:
    """Return a decision's way with round figures, ms after zero: barrier 1, asked 2, decided 20, planned 25, durable 27."""
    from benchmarks.line import Passage

    asked = Decide(1, 1_000_000, 1, 0, ("A/B",), (), (0.0,), (False,), (0.3,), 1.0, 1.0, 1.0, 9)
    one = Passage(asked)
    one.asked_ns = 2_000_000
    one.decided = Decided(1, NoDecision(NoReason.PAUSED, ""), 1_000_000, 10_000_000, 2_000_000, 20_000_000, 0.0)
    one.planned_ns, one.durable_ns, one.sent_all_ns = 25_000_000, 27_000_000, 60_000_000
    one.sign_ns, one.ids = 1_000_000, ("x", "y")
    return one


def test_the_split_adds_up() -> None:
    """The parts of one decision sum to its total."""
    parts = close_to_order.split(passage(), {"x": 30_000_000, "y": 41_000_000})

    assert parts is not None
    assert parts["total"] == pytest.approx(40.0)
    assert sum(parts[name] for name in close_to_order.PARTS) == pytest.approx(40.0)


def test_a_decision_whose_orders_did_not_all_arrive_does_not_count() -> None:
    """Half a decision is no measurement."""
    assert close_to_order.split(passage(), {"x": 30_000_000}) is None


def test_a_trade_counts_for_the_busiest_phase_it_touches() -> None:
    """Sending before deciding before idle."""
    spans = ticks.phases_of([passage()], {"x": 30_000_000, "y": 41_000_000})

    assert [ticks.classify(spans, begun, begun + 100_000) for begun in (0, 5_000_000, 30_000_000, 50_000_000)] == [
        0,
        1,
        2,
        3,
    ]
    assert ticks.classify(spans, 19_000_000, 21_000_000) == 2
    assert ticks.classify(spans, 90_000_000, 91_000_000) == 0


async def test_the_whole_line_runs_on_the_bench(tmp_path: Path) -> None:
    """Two assets: real worker, ledger and venue; one decision trades both and every stage of it is stamped."""
    symbols = universe(2)
    await publish_model(tmp_path, symbols)
    async with (
        running(tmp_path, frames=True, **venue_options(2, trades_per_s=10)) as venue,
        trading(venue, symbols, tmp_path, every=1) as (_, watch),
    ):
        async with asyncio.timeout(20.0):
            while not any(len(one.ids) == 2 and one.sent_all_ns for one in watch.passages):
                await asyncio.sleep(0.05)
    found = [parts for one in watch.passages if (parts := close_to_order.split(one, venue.orders)) is not None]

    assert found
    assert venue.frames


def test_a_durable_intent_is_measured_beside_its_floors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is there, with as many commits as rounds, and the ledger really took them."""
    from benchmarks import intent

    monkeypatch.chdir(tmp_path)
    found = intent.run(3)

    assert {name for name, one in found.items() if isinstance(one, dict)} == {
        "page + fsync", "SQLite alone", "thread and back", "in its thread 1", "intents 1", "intents 10", "intents 100",
    }  # fmt: skip
    assert found["intents 1"]["n"] == 3
    assert found["in its thread 1"]["p50_ms"] > 0


def test_trade_frames_are_found_in_what_was_sent() -> None:
    """Several frames may leave in one send."""
    data = b'..{"e":"aggTrade","E":1,"s":"BTCUSDT","a":12,"p":"1"}..{"e":"aggTrade","E":1,"s":"ETHUSDT","a":7,"p":"1"}'

    assert TRADE.findall(data) == [(b"BTCUSDT", b"12"), (b"ETHUSDT", b"7")]


def test_summaries_compare_with_idle() -> None:
    """The ratio is that of the 99th percentiles."""
    found = ticks.summary([[100.0] * 50, [150.0] * 50, [400.0] * 50, []], 3)

    assert found["p99_ratios"] == {"deciding": pytest.approx(1.5), "sending": pytest.approx(4.0)}


def test_snapshots_are_measured() -> None:
    """A tiny engine: copied, written, restored; sizes and times are there."""
    found = snapshot.measure(2, 20, 10, bars=30, times=1)

    assert found["raw_mb"] > found["written_mb"] > 0
    assert min(found["copy_ms"], found["felt_ms"], found["restore_ms"]) > 0


def test_the_lstm_is_raced_against_itself_inside_a_backtest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three contestants on the same periods; asked ahead the backtest trades, and decides as when asked close by close."""
    from benchmarks import portfolio_lstm

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(portfolio_lstm, "DATA", tmp_path / "data")
    found = portfolio_lstm.run(1, assets=2, periods=12)
    portfolio_lstm.report(found)

    assert set(found["rate"]) == {"LSTM alone", "backtest", "by itself"}
    assert 0.0 < found["ratio"] == found["ratios"][0]
    assert found["orders"] > 0
