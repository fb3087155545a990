"""F29–F42: what happens to orders and executions at the venue."""

import signal
from collections import Counter
from decimal import Decimal

from tests.e2e.kit import Tree, rows, until
from tests.faults.harness import Trial, row
from tests.faults.network import NS, ORDER, QUERY, ended, hold

CANCEL = "DELETE /api/v3/order"
RESTING: Tree = {"execution": {"order": "limit"}}
"""Orders rest at the touch: there is something to cancel, and executions come in parts."""


def resting(trial: Trial) -> Tree:
    """Return a purchase of ours that goes on resting, with decisions paused: nothing replaces it."""
    for _ in range(30):
        until(lambda: bought(trial), timeout_s=40, what="a resting purchase", why=trial.tail)
        trial.command("pause")
        hold(trial, 1.5)  # what was on its way arrives, what was about to be replaced goes
        found = bought(trial)
        if found:
            return found[0]
        trial.command("resume")
    raise AssertionError("no purchase of ours rests")


def bought(trial: Trial) -> list[Tree]:
    """Return our open orders to buy."""
    return [one for one in trial.open_orders() if one["side"] == "BUY"]


def at_rest(trial: Trial) -> Tree:
    """Trade with resting orders until one of them rests."""
    trial.trading(**RESTING)
    return resting(trial)


def shown(trial: Trial, client_id: str) -> Tree:
    """Return an order as the exchange has it."""
    (one,) = [one for one in trial.exchange.truth()["orders"] if one["client_id"] == client_id]
    return dict(one)


def fall(trial: Trial, symbol: str, pct: float) -> None:
    """Let a price fall at once."""
    trial.exchange.steer("crash", symbol=symbol, pct=pct)


# ---------------------------------------------------------------- executions


@row(
    "F29",
    "partial fills, then a cancel that comes too late",
    expect="final quantity = Σ fills, fills of cancelled orders kept",
)
def f29(trial: Trial) -> None:
    """Cancels are slow, the book is thin: orders go on executing between our cancel and its effect."""
    trial.trading("--touch-notional", 1500, **RESTING)
    slow = trial.arm(CANCEL, "delay", times=0, seconds=0.5)

    def raced() -> tuple[list[str], list[str]]:
        orders = trial.exchange.truth()["orders"]
        asked = {
            one["client_id"]: int(one["ns"])
            for one in trial.exchange.requests("/api/v3/order")
            if one["method"] == "DELETE"
        }
        partly = [one["client_id"] for one in orders if one["status"] == "CANCELED" and Decimal(one["filled"])]
        late = [
            one["client_id"]
            for one in orders
            if one["client_id"] in asked
            and any(fill["time_ms"] * 10**6 > asked[one["client_id"]] for fill in one["fills"])
        ]
        return partly, late

    until(lambda: all(raced()), timeout_s=90, what="fills before and after a cancel was sent", why=lambda: str(raced()))
    assert slow.fired
    partly, late = raced()
    trial.recovered()
    states = trial.states()
    assert {states[name] for name in partly} == {"canceled"}
    assert {states[name] for name in late} <= {"canceled", "filled"}


@row("F30", "fill before ack, ack before fill, REST older than the stream", expect="state monotone; nothing voided")
def f30(trial: Trial) -> None:
    """Answers come 1.5 s late, reports are swapped, and a query's answer describes the past."""
    at_rest(trial)
    swapped = trial.arm("user *", "reorder", times=0)
    trial.command("resume")
    trial.arm(ORDER, "delay_after", times=4, seconds=1.5).wait(4)
    assert swapped.fired
    trial.heal()
    order = resting(trial)  # decisions are paused again
    stale = trial.arm("GET /api/v3/*rder*", "delay_after", times=6, seconds=3.0)  # one order, or the list of open ones
    stale.wait(timeout_s=40)
    fall(trial, order["symbol"], 6)
    until(lambda: shown(trial, order["client_id"])["status"] == "FILLED", what="its execution", why=trial.tail)
    until(lambda: trial.states()[order["client_id"]] == "filled", what="the stream's word", why=trial.tail)
    hold(trial, 4)
    trial.recovered()
    for name, steps in trial.history().items():
        ends = [state for _, state in steps if state in {"filled", "canceled", "expired", "rejected", "never_placed"}]
        assert len(ends) <= 1, f"I8: {name} went through {steps}"


@row("F31", "duplicate reports, and the account's trades again after a restart", expect="booked once", quick=True)
def f31(trial: Trial) -> None:
    """Every report comes twice; then the process is killed and finds all executions again by REST."""
    daemon = trial.trading()
    trial.arm("user executionReport", "duplicate", times=0).wait(12)
    daemon.kill9()
    trial.heal()
    daemon.start()
    trial.recovered()
    trial.orders(2, since_ns=trial.exchange.now_ns())


@row("F32", "lost report", expect="found by REST within 10 s")
def f32(trial: Trial) -> None:
    """A resting order executes and the user stream says nothing."""
    order = at_rest(trial)
    skipped = trial.arm("user executionReport", "skip", times=0)
    fall(trial, order["symbol"], 6)
    until(lambda: shown(trial, order["client_id"])["status"] == "FILLED", what="its execution", why=trial.tail)
    begin_ns = trial.exchange.now_ns()
    until(lambda: trial.states()[order["client_id"]] == "filled", timeout_s=20, what="REST's word", why=trial.tail)
    seconds = (trial.exchange.now_ns() - begin_ns) / NS
    assert skipped.fired
    trial.recovered()
    assert seconds <= 10.5, f"found after {seconds:.1f} s"


@row("F33", "-2013 for 30 s though the order exists", expect="stays unresolved, never called failed; then found")
def f33(trial: Trial) -> None:
    """The answer is lost, the report too, and every query says that there is no such order."""
    trial.trading()
    trial.arm("user executionReport", "skip", times=0)
    hidden = trial.arm(QUERY, "error", code=-2013, msg="Order does not exist.", times=0)
    trial.arm(ORDER, "cut_after", times=2).wait(2)
    names = trial.caught()
    hold(trial, 30)
    hidden.wait(3)
    trial.recovered()
    ended(trial, names, "filled", "expired")


@row("F34", "lists of orders are incomplete", expect="nothing is closed or cancelled because one list lacks it")
def f34(trial: Trial) -> None:
    """openOrders, allOrders and myTrades lack half or all of their entries while orders rest, ours and a person's."""
    order = at_rest(trial)
    stranger = by_hand(trial, "web_1")
    lists = trial.arm("GET /api/v3/openOrders", "omit", times=0, share=1.0)
    trial.arm("GET /api/v3/myTrades", "omit", times=0, share=0.5)
    by_hand(trial, "web_2")  # an order nobody knows makes it compare at once
    lists.wait(2, timeout_s=60)
    hold(trial, 3)
    assert shown(trial, stranger)["status"] == "NEW", "an order by hand was cancelled"
    assert trial.states()[order["client_id"]] == "acked", "an order was closed because one list lacked it"
    assert shown(trial, order["client_id"])["status"] in {"NEW", "PARTIALLY_FILLED"}
    trial.recovered()


def by_hand(trial: Trial, name: str, symbol: str = "BTCUSDT") -> str:
    """Let a person place an order far below the market; return its client id."""
    price = Decimal(trial.exchange.ask(f"/api/v3/ticker/price?symbol={symbol}")["price"])
    low = str((price * Decimal("0.9")).quantize(Decimal("0.01")))
    ticket = {"symbol": symbol, "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01", "price": low}
    trial.exchange.steer("place", newClientOrderId=name, **ticket)
    return name


@row("F35", "duplicate client id rejection", expect="queried, the existing order adopted")
def f35(trial: Trial) -> None:
    """The order is placed and the answer says -2010 "Duplicate order sent."."""
    trial.trading()
    trial.arm("user executionReport", "skip", times=0)
    trial.arm(ORDER, "error", code=-2010, msg="Duplicate order sent.", handle=True, times=3).wait(3)
    trial.recovered()
    ended(trial, trial.caught(), "filled", "expired")


# ---------------------------------------------------------------- cancels


@row(
    "F36",
    "cancel-all fails in part, cancels answer -2011",
    expect="repeated until the venue shows none; not done before",
)
def f36(trial: Trial) -> None:
    """A kill with resting orders: four cancels say "unknown order", three say 503, and all of them are still there."""
    daemon = trial.trading(**RESTING)
    until(trial.open_orders, timeout_s=60, what="a resting order", why=trial.tail)
    for number in range(8):
        place_ours(trial, f"{trial.prefix}rests{number}")
    unknown = trial.arm(CANCEL, "error", code=-2011, msg="Unknown order sent.", times=4)
    trial.arm(CANCEL, "error", status=503, times=3)
    process = daemon.process
    assert process is not None
    process.send_signal(signal.SIGUSR1)
    until(lambda: not open_with_prefix(trial), timeout_s=20, what="every cancel", why=trial.tail)
    gone_ms = max(int(one["update_ms"]) for one in trial.exchange.truth()["orders"])
    unknown.wait(2)
    until(lambda: daemon.events("cancel_all"), what="the word that all is done", why=trial.tail)
    done = [one for one in daemon.events("cancel_all") if one.get("still_open") == 0]
    assert done, daemon.events("cancel_all")
    assert milliseconds(done[0]["timestamp"]) >= gone_ms, "called done before the last order was gone"
    trial.recovered(state="halted", causes=["kill"])


def place_ours(trial: Trial, client_id: str) -> None:
    """Put an order under our prefix on the account, far below the market: what a kill has to find at the venue alone."""
    trial.strangers.add(client_id)
    price = Decimal(trial.exchange.ask("/api/v3/ticker/price?symbol=ETHUSDT")["price"])
    ticket = {"symbol": "ETHUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01"}
    trial.exchange.steer("place", newClientOrderId=client_id, price=f"{price * Decimal('0.8'):.2f}", **ticket)


def open_with_prefix(trial: Trial) -> list[Tree]:
    """Return every open order whose client id begins as ours do."""
    orders = trial.exchange.truth()["orders"]
    return [
        one
        for one in orders
        if one["client_id"].startswith(trial.prefix) and one["status"] in {"NEW", "PARTIALLY_FILLED"}
    ]


def milliseconds(stamp: str) -> int:
    """Return the ms UTC of a log line's time."""
    import datetime as dt

    return int(dt.datetime.fromisoformat(stamp).timestamp() * 1000)


@row("F37", "a replacement fails between cancel and new order (409, -2021)", expect="at most one live order per symbol")
def f37(trial: Trial) -> None:
    """Ballast cancels, awaits the end and only then places again: whichever half fails, there is one order."""
    trial.trading(**RESTING)
    faults = [
        trial.arm(CANCEL, "error", status=409, code=-2021, msg="Order cancel-replace partially failed.", times=3),
        trial.arm(
            CANCEL, "error", status=409, code=-2021, msg="Order cancel-replace partially failed.", times=3, handle=True
        ),
        trial.arm(ORDER, "error", status=409, code=-2021, msg="Order cancel-replace failed.", times=2, handle=True),
    ]
    most: Counter[str] = Counter()

    def watched() -> bool:
        most.update(())  # keeps what was seen before
        for symbol, count in Counter(one["symbol"] for one in trial.open_orders()).items():
            most[symbol] = max(most[symbol], count)
        return all(one.fired >= limit for one, limit in zip(faults, (3, 3, 2), strict=True))

    until(watched, timeout_s=60, what="every failed half", why=trial.tail)
    assert max(most.values()) == 1, f"live orders side by side: {most}"
    assert not trial.exchange.requests("cancelReplace")
    trial.recovered()


# ---------------------------------------------------------------- others, and the venue itself


@row("F38", "external order, trade by hand, deposit", expect="noticed within 30 s, alerts, respected, never cancelled")
def f38(trial: Trial) -> None:
    """While it trades: a person rests an order, buys, and money arrives."""
    trial.trading()
    begin_ns = trial.exchange.now_ns()
    name = by_hand(trial, "web_1", "ETHUSDT")
    ticket = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
    trial.exchange.steer("place", newClientOrderId="web_2", **ticket)
    trial.exchange.steer("deposit", asset="USDT", amount="123.45")
    trial.fire(3)

    def noticed() -> bool:
        status = trial.status()
        flows = [one["detail"] for one in status["alerts"] if one["code"] == "flow"]
        money = [one for one in flows if one.startswith("USDT +123.45")]
        bought = [one for one in flows if "external trade BTC/USDT" in one]
        return bool(money and bought) and [one["client_id"] for one in status["external_orders"]] == [name]

    until(noticed, timeout_s=40, what="all three", why=lambda: f"{trial.status()}")
    seconds = (trial.exchange.now_ns() - begin_ns) / NS
    trial.recovered()
    assert seconds <= 31, f"noticed after {seconds:.1f} s"
    assert shown(trial, name)["status"] == "NEW"


@row("F39", "the exchange cancels and expires our orders", expect="booked with the reason; trading goes on")
def f39(trial: Trial) -> None:
    """One resting order is cancelled by the venue, another one expires."""
    first = at_rest(trial)
    trial.exchange.steer("cancel", symbol=first["symbol"], orderId=first["order_id"])
    until(lambda: trial.states()[first["client_id"]] == "canceled", what="the end booked", why=trial.tail)
    trial.command("resume")
    second = resting(trial)
    trial.exchange.steer("expire", symbol=second["symbol"], orderId=second["order_id"])
    trial.fire(2)
    until(lambda: trial.states()[second["client_id"]] == "expired", what="the end booked", why=trial.tail)
    trial.command("resume")
    trial.recovered()
    trial.orders(1, since_ns=trial.exchange.now_ns())


@row("F40", "fees in a third asset, the tier changes, dust", expect="every asset conserved to the last digit")
def f40(trial: Trial) -> None:
    """Fees in BNB until there is none left, then in the asset bought, at another rate."""
    trial.trading()
    trial.exchange.steer("deposit", asset="BNB", amount="0.05")
    trial.exchange.steer("fee", asset="BNB", price="600", rate="0.00075")
    trial.fire()

    def paid(asset: str) -> int:
        return sum(one["commission_asset"] == asset for one in trial.exchange.truth()["fills"])

    until(lambda: paid("BNB") >= 5, timeout_s=40, what="fees in BNB", why=trial.tail)
    trial.exchange.steer("fee", asset="", rate="0.0004321")
    trial.fire()
    since_ns = trial.exchange.now_ns()
    trial.orders(5, since_ns=since_ns)
    trial.recovered()
    assets = {asset for (asset,) in rows(trial.daemon.ledger, "select distinct fee_asset from fills")}
    assert "BNB" in assets
    assert len(assets) >= 2


@row("F41", "two legs want the same money", expect="what does not fit is denied here by reservation; no -2010 ever")
def f41(trial: Trial) -> None:
    """Little cash, every answer and report late: what is on its way must count as spent."""
    trial.open("--cash", 400)
    trial.trading(risk={"max_order_notional": 0.3}, optimizer={"turnover_max": 1.0})
    late = trial.arm(ORDER, "delay_after", times=0, seconds=2.5)
    trial.arm("user *", "hold", times=3, seconds=3.0)
    late.wait(8)
    trial.heal()
    refused = [one for one in trial.exchange.orders_sent() if one["status"] == 400]
    assert not refused, f"the venue had to refuse: {refused}"
    trial.recovered()


@row("F42", "stop triggered, not filled", expect="the ladder goes on until the position is gone, and says so")
def f42(trial: Trial) -> None:
    """The price falls through the stop, and again while each of the first exits is on its way."""
    daemon = trial.trading(risk={"stop_loss": 0.05, "trailing_stop": 0.5, "max_order_notional": 0.3})
    held = until(
        lambda: [one for one in daemon.api("positions")["positions"] if float(one["weight"]) > 0.02],
        timeout_s=60, what="a position", why=trial.tail,
    )[0]  # fmt: skip
    symbol = held["symbol"].replace("/", "")
    slow = trial.arm(ORDER, "delay", times=7, seconds=1.0, contains=f"symbol={symbol}")
    fall(trial, symbol, 9)
    for count in range(1, 7):
        slow.wait(count)
        fall(trial, symbol, 7)  # further than the exit collar reaches

    query = f"select client_id from intents where is_exit and symbol = '{held['symbol']}'"

    def exits() -> list[Tree]:
        stops = {name for (name,) in rows(daemon.ledger, query)}
        return [one for one in trial.exchange.truth()["orders"] if one["client_id"] in stops]

    until(
        lambda: [one for one in exits() if one["status"] == "FILLED"] and not daemon.exits(),
        timeout_s=60, what="the way out", why=lambda: f"{exits()} {trial.tail()}",
    )  # fmt: skip
    assert [one for one in exits() if not Decimal(one["filled"])], f"no exit missed the market: {exits()}"
    assert len(exits()) >= 6
    assert daemon.events("exit_slow"), "nobody was told that the exit took more than five attempts"
    trial.recovered()
