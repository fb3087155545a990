"""The first training, on the exchange's own history: what it earns is traded, and where nothing can be learnt nothing is."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import Daemon, Exchange, assert_same, until

HORIZON = 10
MARKET = ("--planted-horizon-bars", HORIZON, "--planted-persistence", 0.9, "--volatility-bar", 0.0015)
LSTM: dict[str, Any] = {
    "feed": {"backfill_bars": 300, "grace_ms": 300},
    "forecast": {
        "model": "lstm", "shrink": "skill", "horizon_bars": HORIZON, "train_bars": 2000, "train_seconds_max": 60,
    },
    "optimizer": {"fully_invested": False, "risk_tolerance": 1.0, "cost_bps": 10.0},
    "risk": {"max_order_notional": 0.05},
}  # fmt: skip
DECISIONS = 15
TRAINED_S = 120.0
READY_WITH_MODEL_S = 8.0


def wait_model(daemon: Daemon) -> None:
    """Wait until the worker serves a model."""
    until(lambda: daemon.readiness()[0], what="an API", why=daemon.tail)
    until(lambda: daemon.api("status")["model"], timeout_s=TRAINED_S, what="a trained model", why=daemon.tail)


def wait_forecasts(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    """Wait until so many decisions were made on a forecast; return them."""

    def made() -> list[dict[str, Any]]:
        found = [one for one in daemon.decisions() if one["forecast"] is not None]
        return found if len(found) >= count else []

    return until(made, timeout_s=60, what=f"{count} decisions on a forecast", why=daemon.tail)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a freshly trained model on returns that nothing predicts; it goes on deciding."""
    with (
        Exchange("--planted-r2", 0, *MARKET, history_bars=3000) as exchange,
        Daemon(exchange, tmp_path_factory.mktemp("shuffled"), **LSTM) as daemon,
    ):
        wait_model(daemon)
        yield daemon


@pytest.fixture(scope="module")
def planted(shuffled: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The same on returns with a strong planted component (``shuffled`` decides meanwhile)."""
    with (
        Exchange("--planted-r2", 0.45, *MARKET, history_bars=3000) as exchange,
        Daemon(exchange, tmp_path_factory.mktemp("planted"), **LSTM) as daemon,
    ):
        wait_model(daemon)
        yield daemon


def test_first_start_trains_and_does_not_trade_meanwhile(planted: Daemon) -> None:
    """One model is trained in a process of its own, on a history it fetched; no order precedes it."""
    planted.wait_ready()
    published = max(path.stat().st_mtime_ns for path in (planted.state_dir / "models").iterdir())

    assert len(planted.api("models")["models"]) == 1
    assert [
        one
        for one in planted.events("training")
        if f"fetching {LSTM['forecast']['train_bars']} bars of 8 pairs" in one["step"]
    ]
    assert [one for one in planted.events("training") if one["step"].startswith("epoch")]
    assert all(one["ns"] > published for one in planted.exchange.orders_sent())
    waiting = [one["outcome"] for one in planted.decisions() if one["ts_ns"] < published]
    assert set(waiting) <= {"no_model", "not_ready", "worker_down", "warming_up", "deadline"}


def test_the_model_is_whole_and_says_what_it_is(planted: Daemon) -> None:
    """Safetensors and a manifest, no pickle; the manifest states skill, horizon and its files' hashes."""
    (row,) = planted.tell("models", "list")["models"]
    folder = planted.state_dir / "models" / row["id"]
    shown = planted.tell("models", "show", row["id"])

    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors"}
    assert row["in_use"] is True
    assert row["problem"] == ""
    assert shown["horizon_bars"] == HORIZON
    assert shown["lookback"] == 60
    assert shown["skill"]["shrink"] > 0
    assert len(shown["symbols"]) == 8


def test_a_planted_component_is_traded(planted: Daemon) -> None:
    """The forecast has earned a mean that is not zero, orders leave, and the books agree."""
    until(lambda: len(planted.exchange.orders_sent()) >= 4, timeout_s=60, what="orders", why=planted.tail)
    forecast = planted.api("forecasts")["forecasts"]

    assert any(one["mean"] != 0 for one in forecast)
    assert all(one["skill"] > 0 for one in forecast)
    planted.settle()
    assert_same(planted.ledger, planted.exchange.truth())
    planted.tell("resume")


def test_returns_that_nothing_predicts_are_not_traded(shuffled: Daemon) -> None:
    """The shrunk mean is exactly 0 in at least fifteen decisions of a trained model, and no order leaves."""
    shuffled.wait_ready()
    decisions = wait_forecasts(shuffled, DECISIONS)
    assert {mean for one in decisions for mean in one["forecast"]["mean"]} == {0.0}
    assert {one["outcome"] for one in decisions} == {"no_change"}
    assert shuffled.exchange.orders_sent() == []


def test_restart_serves_the_model_at_once(planted: Daemon) -> None:
    """Ready within eight seconds, no second training, the same model."""
    model = planted.api("status")["model"]
    assert planted.stop()[0] == 0
    began = time.monotonic()
    planted.start().wait_ready()
    seconds = time.monotonic() - began

    assert planted.api("status")["model"] == model
    assert len(planted.api("models")["models"]) == 1
    assert planted.events("training") == []
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # the bound is that of a machine of our own
    assert seconds <= READY_WITH_MODEL_S * crowd


@pytest.mark.parametrize("decisions", ["recorded", "recomputed"])
def test_i10_the_journal_replays_equal(planted: Daemon, decisions: str, tmp_path: Path) -> None:
    """I10, I13: the recorded run with a real network gives the same effects again, its forecasts recomputed too."""
    if planted.process is not None:
        wait_forecasts(planted, 5)
        planted.stop()
    done = planted.cli_plain("replay", str(planted.state_dir / "live" / "journal"), "--decisions", decisions, "--json")

    assert done.returncode == 0, (done.stdout, done.stderr)
    result = json.loads(done.stdout)
    assert result["ok"] is True
    assert result["difference"] == ""
    assert result["frames"] > 0
    assert result["decided"] >= 5
    assert result["checked"] > 0


@pytest.mark.parametrize("harm", ["flipped", "foreign"])
def test_f60_a_model_that_is_not_ours_is_refused(planted: Daemon, harm: str) -> None:
    """F60: a flipped bit or a foreign file is refused in one line and never served; another model is trained instead."""
    planted.close()
    models = planted.state_dir / "models"
    bad = (models / "current").read_text().strip()
    weights = models / bad / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if harm == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    weights.write_bytes(bytes(content))
    listed = planted.cli("models", "show", bad)
    planted.start()

    assert listed.returncode == 78
    assert len(listed.stderr.splitlines()) == 1
    until(lambda: planted.events("model refused"), what="the refusal", why=planted.tail)
    assert all("\n" not in one["error"] for one in planted.events("model refused"))
    assert planted.api("status")["model"] == ""
    if harm == "foreign":  # that another one is trained instead was seen with the first
        planted.wait_decisions(2)
        assert planted.api("status")["model"] == ""
        assert planted.stop()[0] == 0
        return
    wait_model(planted)
    assert (models / "current").read_text().strip() != bad
    assert {one["outcome"] for one in planted.decisions() if not one["forecast"]} <= {
        "no_model", "not_ready", "worker_down", "warming_up", "deadline", "paused",
    }  # fmt: skip
    assert planted.stop()[0] == 0
