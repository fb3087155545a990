"""Malformed, absurd and disordered market data: counted, repaired, and never in a bar."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.e2e.conftest import PATIENT, STRONG
from tests.e2e.kit import SYMBOLS, Daemon, Exchange, assert_same, until
from tests.e2e.test_health import value

TIMES = 2


class Harm(NamedTuple):
    """What happens to real trades of one symbol, and how it is counted ("" where nothing is)."""

    symbol: str
    action: str
    reason: str
    field: str = ""
    text: str = ""
    times: int = TIMES


ABSURD = {
    "zero": Harm("BTC/USDT", "set", "bad_price", "p", '"0.00000000"'),
    "negative": Harm("ETH/USDT", "set", "bad_price", "p", '"-1.00000000"'),
    "nan": Harm("SOL/USDT", "set", "bad_price", "p", '"NaN"'),
    "infinite": Harm("XRP/USDT", "set", "bad_price", "p", '"1e300"'),
    "text": Harm("ADA/USDT", "set", "bad_price", "p", '"abc"'),
    "no size": Harm("DOGE/USDT", "set", "bad_size", "q", '"0.00000000"'),
    "from 1970": Harm("LTC/USDT", "set", "bad_time", "T", "1000"),
    "years ahead": Harm("LINK/USDT", "set", "bad_time", "T", "9000000000000"),
}
DISORDER = {
    "F19 lost": Harm("ETH/USDT", "skip", ""),
    "F20 repeated": Harm("SOL/USDT", "duplicate", "duplicate_id"),
    "F21 swapped": Harm("XRP/USDT", "reorder", ""),
    "F28 torn": Harm("ADA/USDT", "corrupt", "broken_json"),
    "F24 thousandfold": Harm("LTC/USDT", "set", "", "p", '"95000.00"'),
    "F24 a thousandth": Harm("LINK/USDT", "set", "", "p", '"0.017"'),
}
FOREIGN = {
    "broken_json": '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1,',
    "unknown_event": '{"stream":"btcusdt@somethingNew","data":{"e":"somethingNew","s":"BTCUSDT","x":1}}',
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon that trades on whatever it is given."""
    with Exchange(*STRONG) as exchange, Daemon(exchange, tmp_path_factory.mktemp("market"), **PATIENT) as one:
        yield one.wait_ready()


def harm(daemon: Daemon, cases: dict[str, Harm]) -> dict[str, float]:
    """Let all of it happen at once; return by how much each reason's count rose."""
    before = counts(daemon)
    rules = [
        daemon.exchange.fault(
            f"frame {one.symbol.replace('/', '').lower()}@aggTrade",
            one.action, times=one.times, field=one.field, text=one.text,
        )
        for one in cases.values()
    ]  # fmt: skip
    until(lambda: all(daemon.exchange.fired(rule) == TIMES for rule in rules), what="all of it", timeout_s=30)
    daemon.exchange.heal()
    daemon.wait_bars(3)
    after = counts(daemon)
    return {reason: after[reason] - before[reason] for reason in after}


def counts(daemon: Daemon) -> dict[str, float]:
    """Return the rejected ticks by reason."""
    reasons = {one.reason for one in (ABSURD | DISORDER).values()} | set(FOREIGN)
    return {reason: value(daemon, "ticks_rejected_total", reason=reason) for reason in reasons if reason} | {
        "all": value(daemon, "ticks_rejected_total")
    }


@pytest.fixture(scope="module")
def absurd(daemon: Daemon) -> dict[str, float]:
    """Real trades with one absurd field each."""
    return harm(daemon, ABSURD)


@pytest.fixture(scope="module")
def disorder(daemon: Daemon, absurd: dict[str, float]) -> dict[str, float]:
    """Real trades lost, repeated, swapped, torn, or a thousand times too high."""
    return harm(daemon, DISORDER)


def test_f24_absurd_trades_are_counted_by_reason(absurd: dict[str, float]) -> None:
    """F24: every absurd trade is one rejected tick with its reason."""
    for reason in ("bad_price", "bad_size", "bad_time"):
        assert absurd[reason] == TIMES * sum(one.reason == reason for one in ABSURD.values()), reason


@pytest.mark.parametrize("case", ABSURD)
def test_f24_an_absurd_trade_never_reaches_a_bar(daemon: Daemon, absurd: dict[str, float], case: str) -> None:
    """F24: the true trade is fetched instead: every bar is exactly the exchange's candle."""
    assert daemon.wrong_bars(ABSURD[case].symbol) == []


@pytest.mark.parametrize("case", DISORDER)
def test_f19_f20_f21_f28_disorder_is_put_right(daemon: Daemon, disorder: dict[str, float], case: str) -> None:
    """Lost, repeated, swapped, torn and thousandfold trades: counted where they are refused; every bar is exact."""
    one = DISORDER[case]
    assert daemon.wrong_bars(one.symbol) == []
    if one.reason:
        assert disorder[one.reason] >= TIMES


def test_f24_no_price_follows_a_thousandfold_trade(daemon: Daemon, disorder: dict[str, float]) -> None:
    """F24: neither price nor stop nor equity has seen it; the refusals are counted."""
    prices = {one["symbol"]: one["price"] for one in daemon.api("positions")["positions"]}

    assert 20 < prices["LTC/USDT"] < 500
    assert 4 < prices["LINK/USDT"] < 80
    assert disorder["all"] >= disorder["duplicate_id"] + disorder["broken_json"] + 2
    assert 50_000 < float(daemon.api("equity")["equity"]) < 200_000
    assert daemon.api("equity")["drawdown"] < 0.2
    assert value(daemon, "stops_triggered_total") == 0


def test_f19_gaps_are_repaired_in_the_same_id_space(daemon: Daemon, disorder: dict[str, float]) -> None:
    """F19: lost trades were counted as gaps, and fetched by aggTrades from the id that was missing."""
    assert value(daemon, "feed_gaps_total", symbol="ETH/USDT") >= 1
    assert value(daemon, "feed_repairs_total", symbol="ETH/USDT") == value(daemon, "feed_gaps_total", symbol="ETH/USDT")
    assert [one for one in daemon.exchange.requests("/api/v3/aggTrades") if one["symbol"] == "ETHUSDT"]


@pytest.mark.parametrize("reason", FOREIGN)
def test_f28_foreign_frames_are_counted(daemon: Daemon, reason: str) -> None:
    """F28: broken JSON and unknown events are counted by reason; the connection survives."""
    before = value(daemon, "ticks_rejected_total", reason=reason)
    for _ in range(3):
        assert daemon.exchange.steer("push", kind="market", frame=FOREIGN[reason])["pushed"] == 1
    until(
        lambda: value(daemon, "ticks_rejected_total", reason=reason) == before + 3, what=f"{reason} counted",
        why=lambda: [line for line in daemon.metrics().splitlines() if "rejected" in line],
    )  # fmt: skip
    assert value(daemon, "feed_reconnects_total", feed="market") == 0


def test_i9_it_traded_on_and_the_books_agree(daemon: Daemon) -> None:
    """I6, I9: after all of it it is ready, trades, its bars are the exchange's, and ledger and exchange are equal."""
    daemon.wait_ready()
    since_ns = daemon.exchange.now_ns()
    until(lambda: daemon.exchange.orders_sent(since_ns), timeout_s=40, what="orders", why=daemon.tail)
    daemon.settle()
    assert [daemon.wrong_bars(symbol) for symbol in SYMBOLS] == [[]] * len(SYMBOLS)
    assert_same(daemon.ledger, daemon.exchange.truth())
