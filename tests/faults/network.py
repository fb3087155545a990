"""F1–F18: what happens to requests and connections on their way."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable

from tests.e2e.kit import SYMBOLS, Tree, rows, until
from tests.faults.harness import Armed, Trial, row
from tests.faults.tls import Authority, TlsProxy

NS = 1_000_000_000
ORDER = "POST /api/v3/order"
QUERY = "GET /api/v3/order"
SLACK_NS = 300_000_000
"""What was under way when a fault was noticed may still leave: one round trip on this machine."""


def given_up(trial: Trial, count: int) -> None:
    """Wait until the daemon has given up waiting for so many answers, or has sent something twice."""

    def over() -> bool:
        sent = Counter(one["client_id"] for one in trial.exchange.orders_sent())
        return len(trial.daemon.events("orders.unknown")) >= count or max(sent.values()) > 1

    until(over, timeout_s=30, what="answers to be given up", why=trial.tail)


def ended(trial: Trial, names: Iterable[str], *states: str) -> None:
    """Assert that orders have ended in one of these states, and were never anything that says "not placed" before."""
    wanted = list(names)
    with contextlib.suppress(AssertionError):  # the ledger's rows follow the engine by a moment
        until(lambda: {trial.states()[name] for name in wanted} <= set(states), timeout_s=5)
    now, history = trial.states(), trial.history()
    for name in wanted:
        assert now[name] in states, f"{name} is {now[name]}"
        never = {state for _, state in history[name]} & {"rejected", "never_placed", "denied"}
        assert not never, f"I8: {name} was called {never} and is at the exchange"


def lost(trial: Trial) -> set[str]:
    """Return the orders that left and never reached the exchange's books; their absence takes 75 s to prove."""
    placed = {one["client_id"] for one in trial.exchange.truth()["orders"]}
    known = trial.states()
    return {one["client_id"] for one in trial.exchange.orders_sent()} & set(known) - placed - {
        name for name, state in known.items() if state in {"rejected", "denied"}
    }


def buys(trial: Trial, since_ns: int) -> list[Tree]:
    """Return the purchases of ours that were placed since then."""
    return [
        one
        for one in trial.exchange.truth()["orders"]
        if one["side"] == "BUY" and one["time_ms"] * 1_000_000 > since_ns and one["client_id"].startswith(trial.prefix)
    ]


def exact_bars(trial: Trial) -> None:
    """Assert that every bar of the last minute is exactly the exchange's own candle, and that none is missing.

    A bar that closed without trades which a repair brought is fetched anew, a request each: that is waited for.
    """
    trial.daemon.wait_bars(2)

    def wrong() -> dict[str, list[Tree]]:
        return {symbol: found for symbol in SYMBOLS if (found := trial.daemon.wrong_bars(symbol))}

    until(lambda: not wrong(), timeout_s=15, what="bars to be mended", why=wrong)


# ---------------------------------------------------------------- one request


@row(
    "F1", "request lost before the venue", expect="UNKNOWN, then NEVER_PLACED; never re-sent; symbol blocked until then"
)
def f1(trial: Trial) -> None:
    """The whole proof of absence: at least 60 s of queries, every list, balances explained."""
    trial.trading()
    trial.arm(ORDER, "drop", times=1).wait()
    (name,) = trial.caught()
    ((symbol,),) = rows(trial.daemon.ledger, f"select symbol from intents where client_id = '{name}'")
    until(lambda: trial.states()[name] in {"unknown", "resolving"}, timeout_s=30, what="UNKNOWN", why=trial.tail)
    since_ns = trial.exchange.now_ns()
    trial.heal()
    until(lambda: trial.states()[name] == "never_placed", timeout_s=150, what="NEVER_PLACED", why=trial.tail)
    proven_ns = trial.exchange.now_ns()
    blocked = [
        one
        for one in trial.exchange.orders_sent(since_ns)
        if one["symbol"] == symbol.replace("/", "") and one["ns"] < proven_ns - NS
    ]
    assert not blocked, f"orders for {symbol} while the fate of one was open: {blocked}"
    trial.recovered()
    assert [state for _, state in trial.history()[name]] == ["sending", "unknown", "resolving", "never_placed"]


@row("F2", "accepted, reply lost", expect="found by client id, ACKED, exactly one order")
def f2(trial: Trial) -> None:
    """The exchange executes the order and never answers."""
    trial.trading()
    trial.arm(ORDER, "hang_after", times=2).wait(2)
    trial.recovered()
    given_up(trial, 2)
    ended(trial, trial.caught(), "filled", "expired")


@row("F2", "accepted, reply and report lost", part="b", expect="found by REST by client id, exactly one order")
def f2b(trial: Trial) -> None:
    """Neither the answer nor the user stream tells: the query must."""
    trial.trading()
    trial.arm("user executionReport", "skip", times=0)
    trial.arm(ORDER, "hang_after", times=2).wait(2)
    given_up(trial, 2)
    trial.recovered()
    ended(trial, trial.caught(), "filled", "expired")


@row("F3", "accepted, TCP reset", expect="found by client id, ACKED, exactly one order", quick=True)
def f3(trial: Trial) -> None:
    """The connection is reset between accept and answer."""
    trial.trading()
    trial.arm(ORDER, "cut_after", times=4).wait(4)
    trial.recovered()
    ended(trial, trial.caught(), "filled", "expired")


@row("F4", "body truncated (ccxt: ExchangeError)", expect="found by client id; never called rejected")
def f4(trial: Trial) -> None:
    """Half the promised body, then the end of the connection; without the user stream's help."""
    trial.trading()
    trial.arm("user executionReport", "skip", times=0)
    trial.arm(ORDER, "truncate", times=4).wait(4)
    names = trial.caught()
    until(
        lambda: not {trial.states()[one] for one in names} & {"sending"}, what="what the answers mean", why=trial.tail
    )
    trial.recovered()
    ended(trial, names, "filled", "expired")


@row("F5", "200 with empty, HTML, broken or foreign body", expect="found by client id; never called rejected")
def f5(trial: Trial) -> None:
    """Everything that ccxt takes for an order without an id."""
    trial.trading()
    faults = [trial.arm(ORDER, action) for action in ("empty", "html", "broken")]
    faults += [trial.arm(ORDER, "replace", text=text) for text in ("{}", "[]", "null", '{"orderId":null}')]
    for fault in faults:
        fault.wait()
    trial.recovered()
    assert len(trial.caught()) == len(faults)
    ended(trial, trial.caught(), "filled", "expired")


@row("F6", "reply drips slower than the timeout", expect="found by client id, exactly one order")
def f6(trial: Trial) -> None:
    """The body takes 60 s; the daemon waits for less."""
    trial.trading()
    trial.arm(ORDER, "slow", times=2, seconds=60.0).wait(2)
    trial.recovered()
    given_up(trial, 2)
    ended(trial, trial.caught(), "filled", "expired")


@row("F7", "order executes 8 s after the timeout", expect="late evidence books it; no second order")
def f7(trial: Trial) -> None:
    """No answer, then nothing to be found, then the execution, at a price that has come towards the order."""
    daemon = trial.trading()
    trial.arm(ORDER, "late", times=1, seconds=18.0).wait()
    (name,) = trial.caught()
    ((symbol, side),) = rows(daemon.ledger, f"select symbol, side from intents where client_id = '{name}'")
    trial.exchange.steer("crash", symbol=symbol.replace("/", ""), pct=4 if side == "buy" else -4)
    given_up(trial, 1)
    until(lambda: trial.states()[name] == "resolving", what="RESOLVING", why=trial.tail)
    until(lambda: name in placed(trial), timeout_s=40, what="the late execution", why=trial.tail)
    trial.recovered()
    ended(trial, [name], "filled")
    assert not daemon.events("orders.denied")


def placed(trial: Trial) -> set[str]:
    """Return the client ids in the exchange's books."""
    return {one["client_id"] for one in trial.exchange.truth()["orders"]}


# ---------------------------------------------------------------- the venue's interface


@row("F8", "5xx burst", expect="no orders, cancels retried with jitter, REDUCING; 30 s instead of 60")
def f8(trial: Trial) -> None:
    """Every request is answered with 503; resting orders wait for their cancels."""
    trial.trading(execution={"order": "limit"})
    fault = trial.arm("* /api/*", "error", status=503, code=-1000, times=0, handle=False).wait(3)
    trial.wait_state("reducing", "rest_down", timeout_s=10)
    since_ns = trial.exchange.now_ns()
    hold(trial, 30, fault)
    late = [one for one in trial.exchange.orders_sent(since_ns + SLACK_NS) if buying(trial, one)]
    assert not late, f"orders during the burst: {late}"
    cancels = Counter(one["client_id"] for one in trial.exchange.requests("/api/v3/order") if one["method"] == "DELETE")
    assert max(cancels.values(), default=0) >= 2, f"no cancel was repeated: {cancels}"
    trial.unproven = len(lost(trial))
    trial.recovered()


def buying(trial: Trial, request: Tree) -> bool:
    """Say whether an order request was to buy: REDUCING lets stops sell."""
    query = f"select side from intents where client_id = '{request['client_id']}'"
    return rows(trial.daemon.ledger, query) == [("buy",)]


def hold(trial: Trial, seconds: float, *faults: Armed) -> None:
    """Leave faults in force for so long; the daemon must live on."""
    end = time.monotonic() + seconds
    process = trial.daemon.process
    assert process is not None
    until(
        lambda: time.monotonic() > end or process.poll() is not None,
        timeout_s=seconds + 5, what="the end of the fault", why=trial.tail,
    )  # fmt: skip
    assert process.poll() is None, f"it ended by itself: {trial.tail()}"
    assert all(one.fired for one in faults)


@row("F9", "429 and 418 with Retry-After", expect="nothing leaves for exactly that long")
def f9(trial: Trial) -> None:
    """First 429 for 4 s, then 418 for 6 s: counted at the exchange."""
    trial.trading()
    for status, pause_s in ((429, 4), (418, 6)):
        since_ns = trial.exchange.now_ns()
        headers = {"Retry-After": str(pause_s)}
        trial.arm(ORDER, "error", status=status, code=-1003, headers=headers, handle=False).wait()
        refused = [one for one in trial.exchange.orders_sent(since_ns) if one["fault"]]
        begin_ns = int(refused[0]["ns"])
        trial.orders(1, since_ns=begin_ns + pause_s * NS, timeout_s=pause_s + 30)
        after = sorted(int(one["ns"]) - begin_ns for one in trial.exchange.requests("", begin_ns + 1))
        # what had left before the answer arrived is no disobedience
        early = [one / NS for one in after if SLACK_NS < one < pause_s * NS]
        assert not early, f"I11: requests {early} s after a {status} with Retry-After {pause_s}"
        states = trial.states()
        assert {states[one["client_id"]] for one in refused} == {"denied"}
    trial.recovered()


@row("F10", "403 and a page of the web firewall", expect="as F9: quiet, and an alert")
def f10(trial: Trial) -> None:
    """No code, no Retry-After: the fate of the order is open, the interface is left alone, a person is told."""
    trial.trading()
    trial.arm(ORDER, "html", status=403, handle=False).wait()
    refused = [one for one in trial.exchange.orders_sent() if one["fault"]]
    begin_ns = int(refused[0]["ns"])
    until(
        lambda: [one for one in trial.status()["alerts"] if "403" in one["detail"]],
        what="an alert that names the 403", why=lambda: f"{trial.status()['alerts']} {trial.tail()}",
    )  # fmt: skip
    hold(trial, 3)
    after = sorted(int(one["ns"]) - begin_ns for one in trial.exchange.requests("", begin_ns + 1))
    early = [one / NS for one in after if SLACK_NS < one < 3 * NS]
    assert not early, f"requests {early} s after the page"
    assert trial.states()[refused[0]["client_id"]] in {"unknown", "resolving"}
    trial.unproven = 1
    trial.recovered()


@row(
    "F11", "DNS outage with live orders", expect="orders stay open or unresolved, none dropped; 25 s instead of 10 min"
)
def f11(trial: Trial) -> None:
    """No name can be resolved and every connection is cut; orders rest meanwhile."""
    names = trial.patch("tests.faults.planted:no_names")
    base = trial.open().base.replace("127.0.0.1", "localhost")
    daemon = trial.trading(base=base, execution={"order": "limit"})
    until(lambda: "acked" in trial.states().values(), what="a resting order", why=trial.tail)
    daemon.flag.touch()
    cut = trial.arm("* /api/*", "cut", times=0)  # kept connections die with the name service
    trial.exchange.steer("disconnect", kind="all")
    names.wait(3)
    trial.wait_state("reducing", timeout_s=30)
    resting = {name for name, state in trial.states().items() if state == "acked"}
    hold(trial, 25)
    after = trial.states()
    gone = {name: after[name] for name in resting if after[name] in {"never_placed", "rejected", "denied"}}
    assert not gone, f"dropped although nothing is known: {gone}"
    daemon.flag.unlink()
    assert cut.fired + names.fired
    trial.unproven = len(lost(trial))
    trial.recovered(timeout_s=90)


# ---------------------------------------------------------------- streams


@row(
    "F12", "half-open market stream: no FIN, no pong", expect="stale within 3 s: no new orders; reconnected within 15 s"
)
def f12(trial: Trial) -> None:
    """Nothing is sent, nothing is read, the socket stays open."""
    daemon = trial.trading(feed={"grace_ms": 500})
    dials = trial.metric("feed_reconnects_total", feed="market")
    fault = trial.arm("frame *", "freeze", seconds=60.0).wait()
    begin_ns = trial.exchange.now_ns()
    trial.wait_state("reducing", "stale_feed", timeout_s=8)
    until(
        lambda: trial.metric("feed_reconnects_total", feed="market") > dials,
        timeout_s=20, what="a new connection", why=trial.tail,
    )  # fmt: skip
    back_ns = trial.exchange.now_ns()
    stale = [one for one in trial.exchange.orders_sent(begin_ns + 3 * NS + SLACK_NS) if one["ns"] < back_ns - NS]
    assert fault.fired
    assert (back_ns - begin_ns) / NS < 15 + 3, f"reconnected after {(back_ns - begin_ns) / NS:.1f} s"
    assert not [one for one in stale if buying(trial, one)], f"I6: orders on stale data: {stale}"
    trial.recovered()
    assert daemon.readiness()[0] == 200
    exact_bars(trial)


@row("F12", "half-open user stream", part="b", expect="noticed within 15 s; what it missed is fetched by REST")
def f12b(trial: Trial) -> None:
    """The account's own stream plays dead while orders execute."""
    trial.trading()
    fault = trial.arm("user *", "freeze", seconds=60.0).wait()
    begin = time.monotonic()
    until(
        lambda: trial.daemon.events("userstream.down"),
        timeout_s=25, what="a noticed silence", why=trial.tail,
    )  # fmt: skip
    assert fault.fired
    assert time.monotonic() - begin < 15 + 3
    trial.recovered()


@row("F13", "serverShutdown, then the disconnect", expect="make-before-break: no gap, no missed bar")
def f13(trial: Trial) -> None:
    """The venue announces the end of both streams and closes them 5 s later."""
    trial.trading(feed={"grace_ms": 500})
    event = {"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": trial.exchange.now_ns() // 10**6}}
    before = trial.exchange.ask("/sim/stats")
    assert trial.exchange.steer("push", kind="market", frame=event)["pushed"] >= 1
    assert trial.exchange.steer("push", kind="user", frame={"event": event["data"]})["pushed"] == 1
    trial.fire(2)
    until(
        lambda: trial.exchange.ask("/sim/stats")["market_connections"] > before["market_connections"],
        timeout_s=5, what="a second connection before the first one ends", why=trial.tail,
    )  # fmt: skip
    trial.exchange.steer("disconnect", kind="market", code=1001)
    trial.fire()
    trial.recovered()
    exact_bars(trial)


@row("F13", "disconnects on schedule, both streams", part="b", expect="no gap, no missed bar, no missed fill")
def f13b(trial: Trial) -> None:
    """Closed in order, then reset, then closed again, a few seconds apart; 24 h lie between them in life."""
    daemon = trial.trading(feed={"grace_ms": 500})
    for code in (1001, 0, 1000):
        assert trial.exchange.steer("disconnect", kind="all", code=code)["closed"] >= 2
        trial.fire()
        trial.wait_state("reducing", timeout_s=10)
        trial.recovered()
        daemon.wait_bars(2)
    exact_bars(trial)


@row("F14", "reconnect storm: every connect refused", expect="capped, jittered, at most one dial per 5 s on average")
def f14(trial: Trial) -> None:
    """Both streams are cut and every new connection answered with 503 for 40 s."""
    trial.trading()
    user = trial.arm("connect /ws-api*", "error", status=503, times=0)
    market = trial.arm("connect *", "error", status=503, times=0)
    trial.exchange.steer("disconnect", kind="all")
    trial.wait_state("reducing", timeout_s=15)
    since_ns = trial.exchange.now_ns()
    hold(trial, 40)
    for one in (user, market):
        assert 2 <= one.fired <= 12, f"{one.fired} dials in 40 s"
    assert not buys(trial, since_ns + SLACK_NS), "bought without streams"
    trial.recovered()


@row("F15", "ping flood under CPU load", expect="every pong echoes its payload in less than 1 s")
def f15(trial: Trial) -> None:
    """A thousand pings on the user stream, and on the market's as many as it may answer (5 messages a second)."""
    trial.trading()
    reconnects = trial.metric("feed_reconnects_total")
    with trial.burning(2):
        before = trial.exchange.ask("/sim/stats")["pongs"]
        for _ in range(5):
            assert trial.exchange.steer("ping", kind="user", count=200)["connections"] == 1
            assert trial.exchange.steer("ping", kind="market", count=3)["connections"] == 1
            trial.fire(203)
            trial.daemon.wait_bars(2)
        until(
            lambda: trial.exchange.ask("/sim/stats")["pongs"] - before >= 5 * 203,
            what="every pong", why=lambda: trial.exchange.ask("/sim/stats"),
        )  # fmt: skip
    lag_s = trial.exchange.ask("/sim/stats")["pong_lag_s"]
    assert lag_s < 1.0, f"a pong took {lag_s:.2f} s"
    assert trial.metric("feed_reconnects_total") == reconnects
    trial.recovered()


@row("F16", "REST down, streams up", expect="REDUCING within seconds, no orders; bars go on")
def f16(trial: Trial) -> None:
    """Every request is cut; trades and reports still arrive."""
    trial.trading(feed={"grace_ms": 500})
    fault = trial.arm("*/api/*", "cut", times=0).wait(2)
    trial.wait_state("reducing", "rest_down", timeout_s=10)
    since_ns = trial.exchange.now_ns()
    trial.daemon.wait_bars(8)
    late = [one for one in trial.exchange.orders_sent(since_ns + SLACK_NS) if buying(trial, one)]
    assert not late, f"orders without REST: {late}"
    assert fault.fired
    trial.unproven = len(lost(trial))
    trial.recovered()
    exact_bars(trial)


@row("F16", "streams down, REST up", part="b", expect="stale: REDUCING, nothing bought; gap closed afterwards")
def f16b(trial: Trial) -> None:
    """No stream can be dialled for 12 s; every request is answered."""
    trial.trading(feed={"grace_ms": 500})
    fault = trial.arm("connect *", "cut", times=0)
    trial.exchange.steer("disconnect", kind="all")
    trial.wait_state("reducing", timeout_s=10)
    since_ns = trial.exchange.now_ns()
    hold(trial, 12)
    assert fault.fired
    assert not buys(trial, since_ns + SLACK_NS), "bought without streams"
    trial.recovered()
    exact_bars(trial)


@row("F17", "latency 2 s ± 1 s, 5 % of replies lost", expect="less throughput, nothing booked wrongly")
def f17(trial: Trial) -> None:
    """For 25 s; reports by stream are as fast as ever, so they overtake every answer."""
    trial.trading()
    since_ns = trial.exchange.now_ns()
    faults = [trial.arm("* /api/*", "hang_after", times=0, probability=0.05, seed=7)]
    faults += [
        trial.arm("* /api/*", "delay", times=0, probability=share, seconds=seconds, seed=int(seconds))
        for seconds, share in ((1.0, 0.33), (2.0, 0.5), (3.0, 1.0))
    ]
    hold(trial, 25, *faults)
    names = [one["client_id"] for one in trial.exchange.orders_sent(since_ns)]
    trial.recovered()
    assert len(names) >= 5, f"{len(names)} orders in 25 s"
    there = placed(trial)
    ended(trial, [name for name in names if name in there], "filled", "expired")


@row("F18", "TLS: the certificate is exchanged for a self-signed one", expect="refused, no plaintext, trading stops")
def f18(trial: Trial) -> None:
    """Trading over TLS; then every new handshake meets a certificate that nobody vouches for."""
    trial.patch("tests.faults.planted:trust")
    exchange = trial.open()
    authority = Authority(trial.folder)
    with TlsProxy(exchange.base, authority.certificate("localhost")) as proxy:
        daemon = trial.make(
            exchange={"rest_url": f"https://localhost:{proxy.port}", "ws_url": f"wss://localhost:{proxy.port}"}
        )
        daemon.env |= {"SSL_CERT_FILE": str(authority.file), "FAULT_CA": str(authority.file)}
        daemon.start().wait_ready()
        trial.orders(2)
        trial.gentle = True  # the watchdog trusts nobody but the public authorities: it could not look after a kill
        proxy.swap(Authority(trial.folder, "stranger").certificate("localhost"))
        until(lambda: proxy.refused >= 3, timeout_s=30, what="refused handshakes", why=trial.tail)
        trial.fire(proxy.refused)
        trial.wait_state("reducing", timeout_s=15)
        since_ns = trial.exchange.now_ns()
        hold(trial, 6)
        assert not trial.exchange.requests("/api/", since_ns + SLACK_NS), "requests passed an untrusted certificate"
        assert proxy.plain == 0, "a connection began in plaintext"
        proxy.swap(authority.certificate("localhost"))
        trial.unproven = len(lost(trial))
        trial.recovered()
        trial.finish()
