"""F19–F28: market data that is lost, repeated, late, silent, absurd or huge."""

import contextlib
import json
from decimal import Decimal
from typing import Any

from daemon.outlets.journal import Frame, read_journal
from tests.e2e.kit import NS, SYMBOLS, Daemon, Exchange, Tree, until
from tests.faults.harness import Trial, row
from tests.faults.host_kit import Switches, sent_between, use_of

PATIENT: dict[str, Any] = {"feed": {"grace_ms": 500}}
"""The longest grace one-second bars allow: on a crowded machine trades come late, and then a bar may lack them."""
MAX_AGE_S = 3.0


def stream(symbol: str, kind: str = "aggTrade") -> str:
    """Return the subject of a symbol's frames."""
    return f"frame {symbol.replace('/', '').lower()}@{kind}"


def exact(daemon: Daemon, *symbols: str, busy: tuple[int, int] = (0, 0)) -> None:
    """Assert that the last minute's bars are the exchange's own candles, all of them, to the last digit.

    A bar counts as exact, too, when the flight recorder shows that a trade of it came later than the grace: a closed bar never
    changes (F21), and on a crowded machine the exchange itself may be late. Not so for bars that closed between the two
    times of ``busy``, when it was our own loop that did not listen.
    """
    for symbol in symbols or SYMBOLS:
        wrong = daemon.wrong_bars(symbol)
        if wrong:
            late = came_late(daemon, symbol)
            wrong = [
                one for one in wrong if busy[0] <= int(one["close_ns"]) <= busy[1] or int(one["close_ns"]) not in late
            ]
        assert wrong == [], f"bars of {symbol} differ from the exchange's candles: {wrong[:2]}"


def came_late(daemon: Daemon, symbol: str) -> set[int]:
    """Return the closes of bars of which a trade came after the grace, as the flight recorder has it."""
    grace_ns, bar_ns = int(daemon.tree["feed"]["grace_ms"]) * 10**6, NS
    stream_name = f'"{symbol.replace("/", "").lower()}@aggTrade"'.encode()
    late = set()
    for record in read_journal(daemon.state_dir / daemon.mode / "journal"):
        if isinstance(record, Frame) and stream_name in record.data[:64]:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                close_ns = int(json.loads(record.data)["data"]["T"]) * 10**6 // bar_ns * bar_ns + bar_ns
                if record.recv_ns > close_ns + grace_ns:
                    late.add(close_ns)
    return late


def rejected(trial: Trial, reason: str = "") -> float:
    """Return how many ticks were refused for a reason, or for any."""
    return trial.metric("ticks_rejected_total", **({"reason": reason} if reason else {}))


@row(
    "F19", "trade ids missing",
    expect="gap found, trades fetched by id, bars exact", quick=True,
)  # fmt: skip
def f19(trial: Trial) -> None:
    daemon = trial.trading(**PATIENT)
    for symbol in ("BTC/USDT", "ETH/USDT"):
        trial.arm(stream(symbol), "skip", times=3, after=2).wait(3)
    trial.heal()
    daemon.wait_bars(3)
    trial.recovered()
    for symbol in ("BTC/USDT", "ETH/USDT"):
        gaps = trial.metric("feed_gaps_total", symbol=symbol)
        assert gaps >= 1, f"{symbol}: no gap was noticed"
        assert trial.metric("feed_repairs_total", symbol=symbol) == gaps
        assert [one for one in trial.exchange.requests("/api/v3/aggTrades") if one["symbol"] == symbol.replace("/", "")]
        exact(daemon, symbol)


@row("F20", "trades repeated", expect="counted as duplicates, volume counted once")
def f20(trial: Trial) -> None:
    daemon = trial.trading(**PATIENT)
    before = rejected(trial, "duplicate_id")
    for symbol in ("SOL/USDT", "XRP/USDT"):
        trial.arm(stream(symbol), "duplicate", times=4).wait(4)
    trial.heal()
    daemon.wait_bars(3)
    trial.recovered()
    assert rejected(trial, "duplicate_id") - before == 8
    exact(daemon, "SOL/USDT", "XRP/USDT")


@row("F21", "trades out of order, and late ones after the bar's end", expect="put in order; a closed bar never changes")
def f21(trial: Trial) -> None:
    daemon = trial.trading(**PATIENT)
    for symbol in ("XRP/USDT", "ADA/USDT"):
        trial.arm(stream(symbol), "reorder", times=4).wait(4)
    daemon.wait_bars(3)
    exact(daemon, "XRP/USDT", "ADA/USDT")
    trial.arm("frame *", "hold", seconds=1.8, times=1).wait()  # longer than the grace
    daemon.wait_bars(2)
    seen = {symbol: bars(daemon, symbol) for symbol in SYMBOLS}
    trial.heal()
    daemon.wait_bars(4)
    trial.recovered()
    for symbol, then in seen.items():
        now = bars(daemon, symbol)
        kept = {close: now[close] for close in then if close in now}
        assert len(kept) > 10
        changed = {close: (then[close], now[close]) for close in kept if kept[close] != then[close]}
        true = {(int(one[6]) + 1) * 10**6: tuple(map(float, one[1:6])) for one in candles(trial.exchange, symbol)}
        for close, (before, after) in changed.items():  # a repair may put the venue's own candle there, nothing else
            assert after == true[close], f"{symbol}: a closed bar changed from {before} to {after}"


def candles(exchange: Exchange, symbol: str) -> list[list[Any]]:
    """Return the exchange's own candles of the last minute."""
    return list(exchange.ask(f"/api/v3/klines?symbol={symbol.replace('/', '')}&interval=1s&limit=60"))


def bars(daemon: Daemon, symbol: str) -> dict[int, tuple[float, ...]]:
    """Return the bars of the last half minute by their close."""
    names = ("open", "high", "low", "close", "volume")
    return {
        int(one["close_ns"]): tuple(float(one[name]) for name in names)
        for one in daemon.api(f"bars/{symbol}?limit=30")["bars"]
    }


@row("F22", "5,000 trades at once into a busy loop", expect="none lost, connection kept, bars exact")
def f22(trial: Trial) -> None:
    switches = Switches(trial, "blocked")
    daemon = switches.trading("--trades-per-s", 200, **PATIENT)
    refused = rejected(trial)
    seconds, before, began_ns = 0.0, 0.0, 0
    for _ in range(3):  # as long as this machine's exchange needs for 5,000
        before, began_ns = trial.metric("ticks_total"), trial.exchange.now_ns()
        seconds = 4.0 if not seconds else 2 * seconds
        switches.throw("blocked", seconds)
        until(lambda: daemon.readiness()[0] == 200, timeout_s=30, what="a loop that runs again", why=daemon.tail)
        if trial.metric("ticks_total") - before >= 5_000:
            break
    assert trial.metric("ticks_total") - before >= 5_000
    trial.heal()
    daemon.wait_bars(3)
    trial.recovered()
    assert trial.metric("feed_reconnects_total", feed="market") == 0
    assert rejected(trial) == refused
    assert not [one for one in daemon.api("status")["alerts"] if one["code"] == "trades_lost"]
    exact(daemon, busy=(began_ns + NS, began_ns + round(seconds * NS)))


@row("F23", "streams silent, socket healthy", expect="no order later than max_age after the last data; heals by itself")
def f23(trial: Trial) -> None:
    trial.trading()
    exchange = trial.exchange
    trial.arm("frame *", "stall", seconds=8.0).wait()
    silent_ns = exchange.now_ns()
    until(lambda: "stale_data" in trial.daemon.readiness()[1], what="stale data", why=trial.tail)
    trial.wait_state("reducing", "stale_feed")
    trial.heal()
    trial.recovered()
    first, last = silent_ns + round((MAX_AGE_S + 0.1) * NS), silent_ns + round(7.5 * NS)
    assert sent_between(trial, first, last) == [], "an order left on data older than max_age_ms"
    assert trial.metric("feed_reconnects_total", feed="market") == 0
    trial.orders(1, since_ns=last)


ABSURD = {
    "BTC/USDT": ("p", '"0.00000000"'),
    "ETH/USDT": ("p", '"-1.00000000"'),
    "SOL/USDT": ("p", '"NaN"'),
    "XRP/USDT": ("p", '"1e300"'),
    "ADA/USDT": ("p", '"abc"'),
    "DOGE/USDT": ("q", '"0.00000000"'),
    "LTC/USDT": ("p", '"95000.00"'),
    "LINK/USDT": ("p", '"0.017"'),
}


@row(
    "F24", "prices zero, negative, NaN, 1e300, text, × 1000, ÷ 1000",
    expect="refused and counted; true trades fetched; no bar, stop or order saw one", quick=True,
)  # fmt: skip
def f24(trial: Trial) -> None:
    daemon = trial.trading(**PATIENT)
    before = rejected(trial)
    began_ns = trial.exchange.now_ns()
    rules = [
        trial.arm(stream(symbol), "set", times=2, field=field, text=text) for symbol, (field, text) in ABSURD.items()
    ]
    for rule in rules:
        rule.wait(2)
    trial.heal()
    daemon.wait_bars(3)
    trial.recovered()
    assert rejected(trial) - before >= 2 * len(ABSURD) - 2  # of two jumps in a row only the first is counted
    assert trial.metric("stops_triggered_total") == 0
    assert 50_000 < float(daemon.api("equity")["equity"]) < 200_000
    exact(daemon)
    priced_soundly(trial, began_ns)


def priced_soundly(trial: Trial, since_ns: int) -> None:
    """Assert that no order since then was priced further than the collar from what the exchange's market was."""
    for one in ours_since(trial, since_ns):
        low, high = span(trial.exchange, one["symbol"], int(one["time_ms"]))
        price = Decimal(one["price"])
        assert low * Decimal("0.985") <= price <= high * Decimal("1.015"), (one, low, high)


def ours_since(trial: Trial, since_ns: int) -> list[Tree]:
    """Return our orders placed at the exchange since then."""
    return [
        one
        for one in trial.exchange.truth()["orders"]
        if int(one["time_ms"]) * 10**6 >= since_ns and one["client_id"].startswith(trial.prefix)
    ]


def span(exchange: Exchange, symbol: str, time_ms: int) -> tuple[Decimal, Decimal]:
    """Return the lowest and highest price of the five seconds before a time."""
    rows = exchange.ask(
        f"/api/v3/klines?symbol={symbol}&interval=1s&limit=7&startTime={time_ms - 5_000}&endTime={time_ms}"
    )
    return min(Decimal(one[3]) for one in rows), max(Decimal(one[2]) for one in rows)


@row("F25", "crossed book", expect="book dropped and counted; no order priced by it; a sound one is taken again")
def f25(trial: Trial) -> None:
    daemon = trial.trading(**PATIENT)
    before = rejected(trial, "crossed_book")
    began_ns = trial.exchange.now_ns()
    trial.arm(stream("BTC/USDT", "bookTicker"), "set", times=0, field="a", text='"0.01000000"').wait(5)
    trial.arm(stream("ETH/USDT", "bookTicker"), "set", times=0, field="b", text='"999999.00"').wait(5)
    until(lambda: rejected(trial, "crossed_book") - before >= 5, what="crossed books counted", why=daemon.tail)
    daemon.wait_bars(3)
    trial.heal()
    trial.recovered()
    priced_soundly(trial, began_ns)
    exact(daemon, "BTC/USDT", "ETH/USDT")


@row("F25", "book stands still while trades flow", part="b", expect="a book older than max_age prices no order")
def f25b(trial: Trial) -> None:
    trial.trading(**PATIENT)
    began_ns = trial.exchange.now_ns()
    trial.arm("frame *@bookTicker", "skip", times=0).wait(50)
    trial.daemon.wait_bars(4)
    for symbol in SYMBOLS:  # the old books are 3 % wrong from here on
        trial.exchange.steer("crash", symbol=symbol.replace("/", ""), pct=3.0)
    trial.daemon.wait_bars(8)
    priced_soundly(trial, began_ns)
    trial.heal()
    trial.recovered()
    since_ns = trial.exchange.now_ns()
    trial.orders(1, since_ns=since_ns)
    priced_soundly(trial, began_ns)


@row(
    "F26", "a symbol halted, its tick and lot changed, mid-run",
    expect="at most one refusal each, rules loaded again, then none",
)  # fmt: skip
def f26(trial: Trial) -> None:
    daemon = trial.trading()
    exchange = trial.exchange
    began_ns = exchange.now_ns()
    exchange.steer("status", symbol="BTCUSDT", status="HALT")
    trial.fire()
    refusals(trial, "BTCUSDT", began_ns, least=1)
    daemon.wait_bars(4)
    changed_ns = exchange.now_ns()
    exchange.steer("rules", symbol="ETHUSDT", qty_decimals=1)
    exchange.steer("rules", symbol="SOLUSDT", price_decimals=0)
    trial.fire(2)
    refusals(trial, "ETHUSDT", changed_ns, least=0)
    daemon.wait_bars(6)
    for symbol, since_ns in (("BTCUSDT", began_ns), ("ETHUSDT", changed_ns), ("SOLUSDT", changed_ns)):
        count = len(refusals(trial, symbol, since_ns, least=0))
        assert count <= 1, f"{symbol}: {count} orders were refused in a row"
    exchange.steer("status", symbol="BTCUSDT", status="TRADING")
    trial.recovered()


def refusals(trial: Trial, symbol: str, since_ns: int, *, least: int) -> list[Tree]:
    """Return the orders of a symbol that the exchange refused since then; wait for so many."""

    def refused() -> list[Tree]:
        sent = trial.exchange.orders_sent(since_ns)
        return [one for one in sent if one["symbol"] == symbol and one["status"] == 400]

    until(lambda: len(refused()) >= least, timeout_s=40, what=f"a refusal of {symbol}", why=trial.tail)
    return refused()


@row(
    "F27", "trade times an hour early, an hour late, in microseconds", expect="refused and counted; bars close on time"
)
def f27(trial: Trial) -> None:
    daemon = trial.trading(**PATIENT)
    before = rejected(trial, "bad_time")
    now_ms = trial.exchange.now_ns() // 10**6
    stamps = {
        "BTC/USDT": now_ms - 3_600_000,
        "ETH/USDT": now_ms + 3_600_000,
        "SOL/USDT": now_ms * 1_000,
        "XRP/USDT": 0,
    }
    rules = [trial.arm(stream(symbol), "set", times=2, field="T", text=str(at)) for symbol, at in stamps.items()]
    for rule in rules:
        rule.wait(2)
    trial.heal()
    daemon.wait_bars(3)
    trial.recovered()
    assert rejected(trial, "bad_time") - before >= 4  # an hour early is a place in the past: put right by the repair
    closes = sorted(bars(daemon, "BTC/USDT"))
    assert closes == list(range(closes[0], closes[-1] + 1, NS)), "a bar is missing or twice"
    assert abs(closes[-1] - trial.exchange.now_ns()) < 5 * NS
    exact(daemon, *stamps)


@row(
    "F28",
    "frames of 10 MB, deep JSON, no UTF-8, half a frame",
    expect="counted or cut; memory bounded; the stream alone begins anew",
)
def f28(trial: Trial) -> None:
    daemon = trial.trading(**PATIENT)
    assert daemon.process is not None
    pid, before = daemon.process.pid, use_of(daemon.process.pid)
    refused, connects = rejected(trial), trial.metric("feed_reconnects_total", feed="market")
    small = [
        '{"stream":"btcusdt@aggTrade","data":' + "[" * 100_000,
        '{"stream":"btcusdt@aggTrade","data":' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}",
        '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade"',
        "",
    ]
    for frame in small:
        trial.exchange.steer("push", kind="market", frame=frame)
        trial.fire()
    trial.exchange.steer(
        "push", kind="market", hex=(b'{"stream":"btcusdt@aggTrade","data":{"s":"\xff\xfe\xc0"}}').hex()
    )
    trial.fire()
    until(lambda: rejected(trial) - refused >= len(small), what="them counted", why=daemon.tail)
    assert trial.metric("feed_reconnects_total", feed="market") == connects, "a small broken frame cut the stream"
    trial.exchange.steer("push", kind="market", frame="x", times=10_000_000)
    trial.fire()
    until(lambda: trial.metric("feed_reconnects_total", feed="market") > connects, what="a new stream", why=daemon.tail)
    trial.heal()
    daemon.wait_bars(3)
    trial.recovered()
    after = use_of(pid)
    assert after["peak"] - before["peak"] < 64_000, f"memory grew from {before['peak']} to {after['peak']} KiB"
    assert trial.metric("feed_reconnects_total", feed="user") == 0
    exact(daemon, "BTC/USDT")
