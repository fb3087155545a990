"""Engine, blotter, gate and planner under everything that can happen to them, in any order.

After each event the invariants of FAULTS section 5 are judged by books kept on the other side (`tests.stateful.books`).
"""

from collections import Counter
from decimal import Decimal
from typing import ClassVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemon.core.config import EngineConfig
from daemon.domain.events import (
    Action,
    Cancel,
    CancelAll,
    Command,
    Decide,
    Decided,
    Denied,
    Effect,
    Event,
    Flow,
    Killed,
    Link,
    Listed,
    Reconciled,
    Recorded,
    Restored,
    Submit,
    Timer,
    TradingState,
    WorkerUp,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S
from daemon.domain.orders import Fill, Intent, OrderState, OrderUpdate, Side, Tif
from daemon.domain.signal import Targets
from risk.limits import Limits
from tests.core.driver import Driver, all_of, instrument, make_config
from tests.stateful.books import CHANGEABLE, ENDED, ZERO, Ledger, Placed, Venue

PEOPLE = {Action.REDUCE_ONLY.value, Action.FLATTEN.value}
DRIFT = Decimal("1.01")
"""I4's allowance: a limit price lies up to the slippage above the mark that weights are reckoned with."""
OPENING = Decimal(100_000)
SHARES = st.sampled_from([Decimal("0.1"), Decimal("0.5"), Decimal(1)])
WISHES = st.lists(st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]), min_size=2, max_size=2)
PLACES = st.integers(min_value=0, max_value=50)
"""Which of several: taken modulo their number, so that every draw means something."""


class Watched(Driver):
    """A hand-driven engine whose every step is judged."""

    def __init__(self, machine: "Machine", config: EngineConfig) -> None:
        """Watch from the first event on."""
        super().__init__(config)
        self.machine = machine

    def send(self, *events: Event) -> tuple[Effect, ...]:
        """Process events one by one; each is judged with what it asked for."""
        out: tuple[Effect, ...] = ()
        for event in events:
            before = self.engine.state.trading
            effects = super().send(event)
            self.machine.judge(event, effects, before)
            out += effects
        self.events.clear()
        self.effects.clear()
        return out


class Machine(RuleBasedStateMachine):
    """What the world may do, and what must hold whatever it does."""

    seen: ClassVar[Counter[str]] = Counter()
    """What happened over all runs: a machine that never met a late fill proves nothing about late fills."""

    def __init__(self) -> None:
        """Build nothing yet: the configuration is drawn."""
        super().__init__()
        self.venue, self.ledger = Venue(), Ledger()
        self.ended: dict[str, str] = {}
        self.ends_asked: list[str] = []
        self.down: set[str] = set()
        self.killed = False
        self.reducing: set[str] = set()
        """Why nothing may be bought, as far as this side knows."""
        self.driver: Watched

    # ------------------------------------------------------------------ birth and rebirth

    @initialize(tif=st.sampled_from(Tif), max_weight=st.sampled_from([0.3, 0.6]))
    def begin(self, tif: Tif, max_weight: float) -> None:
        """Start on an empty ledger with a hundred thousand."""
        limits = Limits(
            max_weight=max_weight, max_order_notional=0.2, order=tif, stop_cooldown_ns=20 * NS_PER_S, max_repeats=0
        )
        self.driver = Watched(self, make_config(tif=tif, limits=limits, turnover_max=1.0, turnover_max_day=1e6))
        self._wake((), OPENING)

    def _wake(self, positions: tuple[tuple[str, Decimal], ...], opening: Decimal) -> None:
        driver, now = self.driver, self.driver.now_ns
        entries = tuple((symbol, driver.prices[symbol]) for symbol, _ in positions)
        driver.send(
            Restored(
                epoch=self.ledger.epoch,
                cash=self.ledger.books.held["USDT"],
                positions=positions,
                entries=entries,
                orders=self.ledger.unsettled(),
                state_json=self.ledger.memory,
                ts_ns=now,
                fill_keys=tuple(self.ledger.keys),
            )
        )
        driver.send(Listed(tuple(instrument(symbol) for symbol in driver.config.universe), now))
        if opening:
            self._flow("USDT", opening, "opening")
        driver.send(*(Link(feed, up=True, detail="", ts_ns=now) for feed in ("user", "market", "rest")))
        self.down.clear()
        for symbol in driver.config.universe:
            driver.send(driver.history(symbol, 20))
        driver.books()
        if self.killed:
            driver.send(Killed(True, "remembered", now))
        self._catch_up()
        driver.send(WorkerUp("model", 0, now))
        driver.timer(50)

    @rule(place=PLACES, keep=st.booleans(), lower=st.booleans())
    def restart(self, place: int, keep: bool, lower: bool) -> None:
        """F43: kill the process, now and then; the next one knows the ledger alone, and may have other limits."""
        if place % 3:
            return
        self.seen["restart"] += 1
        old = self.driver
        limits = old.config.limits
        if not keep:
            self.seen["limits changed"] += 1
            limits = msgspec.structs.replace(limits, max_weight=0.15 if lower else 0.6)
        self.driver = Watched(self, msgspec.structs.replace(old.config, limits=limits))
        self.driver.now_ns = old.now_ns + NS_PER_S
        self.driver.ids, self.driver.prices = old.ids, old.prices
        self.ends_asked.clear()
        self.ledger.epoch += 1
        for order in self.venue.having("flying"):
            order.status = "lost"  # nobody hears the answer any more
        self.venue.hang_up()
        self.ended = {client_id: state for client_id, state in self.ended.items() if not self._forgotten(client_id)}
        bases = {symbol: symbol.split("/")[0] for symbol in old.config.universe}
        held = self.ledger.books.held
        self._wake(tuple((symbol, held[base]) for symbol, base in bases.items() if held[base]), ZERO)

    def _forgotten(self, client_id: str) -> bool:
        """Say whether recovery looks for this order although it had ended: executions are missing."""
        return any(record.intent.client_id == client_id for record in self.ledger.unsettled())

    # ------------------------------------------------------------------ market and strategy

    @rule(place=PLACES, change=st.sampled_from([0.9, 0.97, 0.995, 1.0, 1.004, 1.02]))
    def trade(self, place: int, change: float) -> None:
        """Let the market move; a stop may trigger."""
        driver = self.driver
        symbol = driver.config.universe[place % len(driver.config.universe)]
        driver.now_ns += 5 * NS_PER_MS
        driver.prices[symbol] = round(driver.prices[symbol] * change, 2)
        driver.books()
        driver.tick(symbol)

    @rule(weights=WISHES)
    def decide(self, weights: list[float]) -> None:
        """Let a bar close and a strategy that knows no limits want something."""
        self._decide(weights)

    @rule(weights=WISHES)
    def decide_again(self, weights: list[float]) -> None:
        """Decide once more before anything else happens: orders pile up."""
        self._decide(weights)

    def _decide(self, weights: list[float]) -> None:
        driver = self.driver
        for ask in all_of(driver.bar(), Decide):
            driver.now_ns += 2 * NS_PER_MS
            targets = Targets(driver.config.universe, tuple(weights))
            driver.send(Decided(ask.seq, targets, 1, 1, 1, driver.now_ns))

    @rule(ms=st.sampled_from([50, 300, 1_500]))
    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.driver.timer(ms)

    # ------------------------------------------------------------------ orders on their way

    @precondition(lambda self: self.venue.having("flying"))
    @rule(
        place=PLACES,
        fate=st.sampled_from(["ack", "reply lost", "request lost", "refused", "denied"]),
        share=SHARES,
    )
    def reach(self, place: int, fate: str, share: Decimal) -> None:
        """Let a request arrive, or its answer, or neither (F1, F2, P16)."""
        self._reach(self._pick(place, "flying"), fate, share)

    def _reach(self, order: Placed, fate: str, share: Decimal) -> None:
        driver, now = self.driver, self.driver.now_ns
        self.seen[fate] += 1
        if fate == "denied" or now > order.intent.expires_ns:
            order.status = "dropped"
            driver.send(Denied((order.intent.client_id,), "too old", now))
        elif fate == "refused":
            order.status = "refused"
            driver.send(self.venue.say(order, OrderState.REJECTED, now, code="-2010", source="send"))
        elif fate == "ack":
            self.venue.open(order, now, share=share, quiet=False)
        else:
            order.status = "lost"
            if fate == "reply lost":
                self.venue.open(order, now, share=share, quiet=True)
            driver.send(self._unknown(order))

    @precondition(lambda self: self.venue.having("lost"))
    @rule(place=PLACES, share=SHARES)
    def arrive_late(self, place: int, share: Decimal) -> None:
        """F7: a request that was given up arrives after all."""
        self.seen["late arrival"] += 1
        self.venue.open(self._pick(place, "lost"), self.driver.now_ns, share=share, quiet=True)

    @precondition(lambda self: self.venue.having("never"))
    @rule(place=PLACES)
    def haunt(self, place: int) -> None:
        """F7 at its worst: an order that was proven absent turns up and executes."""
        self.seen["late evidence"] += 1
        order = self._pick(place, "never")
        order.disproved = True
        self.venue.open(order, self.driver.now_ns, share=Decimal(1), quiet=True)
        self.venue.execute(order, Decimal(1), self.driver.now_ns)

    @precondition(lambda self: self.venue.having("open"))
    @rule(place=PLACES, share=SHARES, fee_asset=st.sampled_from(["", "", "BNB"]))
    def execute(self, place: int, share: Decimal, fee_asset: str) -> None:
        """F30, F35, F40: execute some of an order, the fee in any asset."""
        self.seen["partial fill" if share < 1 else "fill"] += 1
        self.venue.execute(self._pick(place, "open"), share, self.driver.now_ns, fee_asset=fee_asset)

    @precondition(lambda self: self.venue.having("open"))
    @rule(place=PLACES)
    def expire(self, place: int) -> None:
        """F39: the exchange ends an order by itself."""
        self.venue.end(self._pick(place, "open"), OrderState.EXPIRED, self.driver.now_ns)

    @precondition(lambda self: self.ends_asked)
    @rule(place=PLACES, first=st.booleans())
    def cancel_arrives(self, place: int, first: bool) -> None:
        """F36: a cancel reaches the venue, perhaps just behind an execution."""
        order = self.venue.orders[self.ends_asked.pop(place % len(self.ends_asked))]
        if first:
            self.seen["cancel race"] += 1
            self.venue.execute(order, Decimal("0.5"), self.driver.now_ns)
        self.venue.end(order, OrderState.CANCELED, self.driver.now_ns)

    # ------------------------------------------------------------------ news on its way

    @precondition(lambda self: self.venue.mail and "user" not in self.down)
    @rule(place=PLACES)
    def deliver(self, place: int) -> None:
        """F30, F32: news comes in any order, however late."""
        mail = self.venue.mail
        self._hand_over(mail[place % len(mail)])

    @precondition(lambda self: self.venue.mail and "user" not in self.down)
    @rule()
    def deliver_all(self) -> None:
        """Let everything arrive in order."""
        for one in tuple(self.venue.mail):
            self._hand_over(one)

    @precondition(lambda self: self.venue.read)
    @rule(place=PLACES)
    def deliver_again(self, place: int) -> None:
        """F31: news that was heard before comes once more."""
        self.seen["duplicate"] += 1
        read = self.venue.read
        self.driver.send(read[place % len(read)])

    @precondition(lambda self: self._doubtful())
    @rule(place=PLACES)
    def query(self, place: int) -> None:
        """Ask the venue for an order whose fate is unknown: what it shows is booked, what is absent for good is dead."""
        doubtful = self._doubtful()
        self._resolve(doubtful[place % len(doubtful)])

    @rule()
    def reconcile(self) -> None:
        """Compare with the venue: what the stream did not tell is told now."""
        self._catch_up()

    # ------------------------------------------------------------------ links, people, money

    @rule(feed=st.sampled_from(["user", "market", "rest"]), place=PLACES)
    def link(self, feed: str, place: int) -> None:
        """F12, F13: a connection breaks, now and then, or one that is down comes back."""
        if self.down:
            feed = min(self.down)
        elif place % 3:
            return
        up = feed in self.down
        (self.down.remove if up else self.down.add)(feed)
        self.seen["link up" if up else "link down"] += 1
        self.driver.send(Link(feed, up=up, detail="", ts_ns=self.driver.now_ns))
        if up and feed == "market":
            for symbol in self.driver.config.universe:
                self.driver.send(self.driver.history(symbol, 20))
        if up and feed == "user":
            self._catch_up()

    @rule(action=st.sampled_from([Action.PAUSE, Action.REDUCE_ONLY, Action.FLATTEN]), place=PLACES)
    def command(self, action: Action, place: int) -> None:
        """Let a person interfere, now and then."""
        if place % 3 == 0:
            self.seen[action.value] += 1
            if action is not Action.PAUSE:
                self.reducing.add(action.value)
            self.driver.send(Command("1", action, "test", self.driver.now_ns))

    @precondition(lambda self: self.driver.engine.state.paused or self.driver.engine.state.causes.latched())
    @rule()
    def resume(self) -> None:
        """Let a person lift what only a person lifts, the kill latch first."""
        if self.killed:
            self.killed = False
            self.driver.send(Killed(False, "test", self.driver.now_ns))
        self.seen["resume"] += 1
        self.reducing -= PEOPLE
        self.driver.send(Command("1", Action.RESUME, "test", self.driver.now_ns))

    @rule(place=PLACES)
    def kill(self, place: int) -> None:
        """A1: the kill latch, now and then."""
        if place % 4 == 0:
            self.seen["kill"] += 1
            self.killed = True
            self.driver.send(Killed(True, "test", self.driver.now_ns))

    @rule(amount=st.sampled_from([Decimal(5_000), Decimal("0.01"), Decimal(-3_000)]), place=PLACES)
    def deposit(self, amount: Decimal, place: int) -> None:
        """F38: money comes or goes, now and then."""
        if place % 3 == 0 and self.venue.truth.held["USDT"] > 3 * abs(amount):
            self.seen["deposit"] += 1
            self._flow("USDT", amount, "deposit")

    # ------------------------------------------------------------------ invariants

    def judge(self, event: Event, effects: tuple[Effect, ...], before: TradingState) -> None:
        """Judge what one event led to, and let it become durable."""
        after = self.driver.engine.state.trading
        if isinstance(event, Timer):  # a connection's state counts from the next timer on
            self.reducing = (self.reducing & PEOPLE) | {f"{feed} is down" for feed in self.down}
        for effect in effects:
            self.ledger.record(effect)
            match effect:
                case Submit():
                    for one in effect.approved:
                        self.seen["order"] += 1
                        self.venue.send(one)
                        self._check_order(one.intent)
                    self._check_state(event, effect, {before, after})
                case Recorded(update=update):
                    self._check_end(update)
                case Cancel():
                    self._ask_end(effect.client_id)
                case CancelAll():
                    for order in self.venue.having("open", "flying", "lost"):
                        self._ask_end(order.intent.client_id)
                case _:
                    pass
        if any(one.intent.side is Side.BUY for effect in all_of(effects, Submit) for one in effect.approved):
            self._check_exposure({one.intent.symbol for e in all_of(effects, Submit) for one in e.approved})

    def _check_state(self, event: Event, submit: Submit, states: set[TradingState]) -> None:
        """I12: HALTED sends nothing, REDUCING buys nothing; by the engine's word and by what this side knows."""
        assert not submit.approved or states != {TradingState.HALTED}, f"I12: {event} sends while HALTED"
        assert not submit.approved or not self.killed, f"I12: {event} sends although killed"
        buys = [one for one in submit.approved if one.intent.side is Side.BUY]
        assert not buys or TradingState.ACTIVE in states, f"I12: {event} buys while {states}: {buys}"
        assert not buys or not self.reducing, f"I12: {event} buys although {self.reducing}"

    def _check_order(self, intent: Intent) -> None:
        """I14: whatever was wanted, this order is whole lots and ticks, inside its collar, and small enough."""
        rules, limits = instrument(intent.symbol), self.driver.config.limits
        assert intent.qty > 0, "I14: nothing is ordered"
        assert intent.qty % rules.step == 0, "I14: not whole lots"
        assert intent.limit % rules.tick == 0, "I14: not whole ticks"
        assert intent.qty * intent.limit >= rules.min_notional, "I14: below the minimum notional"
        mark = Decimal(str(self.driver.prices[intent.symbol]))
        collar = Decimal(str(limits.exit_collar if intent.exit else limits.price_collar))
        assert abs(intent.limit / mark - 1) <= collar + Decimal("0.0002"), f"I14: {intent.limit} of {mark}"
        notional = Decimal(str(limits.max_order_notional)) * self._equity() * DRIFT
        assert intent.qty * intent.limit <= notional, f"I14: {intent.qty * intent.limit} is more than {notional}"
        if intent.side is Side.SELL:
            self._check_sell(intent)

    def _check_sell(self, intent: Intent) -> None:
        base = intent.symbol.split("/")[0]
        others = [one for one in self.venue.orders.values() if one.may_fill and one.intent is not intent]
        selling = sum((o.left for o in others if o.intent.symbol == intent.symbol and o.intent.side is Side.SELL), ZERO)
        assert intent.qty + selling <= self.venue.foreseeable.held[base], (
            f"I14: {intent.qty} is sold, {selling} is for sale already"
        )

    def _check_exposure(self, symbols: set[str]) -> None:
        """I4: over any subset of fills. Long only, so the worst of them is: every buy executes and no sell does."""
        limits, equity = self.driver.config.limits, self._equity()
        buys = [o for o in self.venue.orders.values() if o.may_fill and o.intent.side is Side.BUY]
        held, total = self.venue.foreseeable.held, ZERO
        for symbol in self.driver.config.universe:
            mark = Decimal(str(self.driver.prices[symbol]))
            worst = held[symbol.split("/")[0]] * mark + sum(
                (o.left * o.intent.limit for o in buys if o.intent.symbol == symbol), ZERO
            )
            total += worst
            if symbol in symbols and any(o.intent.symbol == symbol and o.status == "flying" for o in buys):
                limit = Decimal(str(limits.max_weight)) * equity * DRIFT
                assert worst <= limit, f"I4: {symbol} may come to {worst / equity:.3f}"
        assert total <= Decimal(str(limits.max_gross)) * equity * DRIFT, f"I4: gross may come to {total / equity:.3f}"
        promised = sum((o.left * o.intent.limit for o in buys), ZERO)
        assert promised <= held["USDT"], f"P14: {promised} is promised of {held['USDT']}"

    def _check_end(self, update: OrderUpdate) -> None:
        """I8: ends are final; what was called absent may turn out to exist, nothing else."""
        known = self.ended.get(update.client_id, "")
        if known and known not in CHANGEABLE:
            assert update.state == known, f"I8: {update.client_id} went from {known} to {update.state}"
        if update.state in ENDED:
            self.ended[update.client_id] = update.state.value
        order = self.venue.orders[update.client_id]
        if update.state in {OrderState.REJECTED, OrderState.NEVER_PLACED}:
            assert order.status in {"refused", "never"}, (
                f"I8: {update.client_id} is {order.status}, called {update.state}"
            )

    @invariant()
    def our_books_are_right(self) -> None:
        """I3: the engine owns what was opened with, what flowed and what it heard executed, to the last digit."""
        if not hasattr(self, "driver"):
            return
        account = self.driver.engine.state.account
        held = {"USDT": account.cash, **account.other}
        for symbol, qty in account.positions.items():
            held[symbol.split("/")[0]] = qty
        ours = {asset: amount for asset, amount in held.items() if amount}
        assert {a: v for a, v in ours.items() if a != "BNB"} == {
            a: v for a, v in self.ledger.books.amounts().items() if a != "BNB"
        }, f"I3: the engine holds {ours}, its ledger {self.ledger.books.amounts()}"
        heard = self.venue.truth.without(self.venue.missing()).amounts()
        assert heard == self.ledger.books.amounts(), f"I3: told of {heard}, booked {self.ledger.books.amounts()}"

    @invariant()
    def nothing_is_filled_beyond_its_size(self) -> None:
        """I5: neither what is booked nor what the venue states exceeds what was ordered."""
        if not hasattr(self, "driver"):
            return
        for client_id, filled in self.ledger.filled.items():
            assert filled <= self.venue.orders[client_id].filled, f"I5: {client_id} is booked beyond its executions"
        for order in self.driver.engine.state.blotter.live.values():
            assert ZERO <= order.booked <= order.intent.qty, f"I5: {order.booked} of {order.intent.qty}"

    @invariant()
    def what_may_execute_is_reckoned_with(self) -> None:
        """I4: an order that the venue may still execute is live in the blotter: its exposure stays reserved."""
        if not hasattr(self, "driver"):
            return
        live = self.driver.engine.state.blotter.live
        for client_id, order in self.venue.orders.items():
            if order.may_fill:
                assert client_id in live, f"I4: {client_id} is {order.status} at the venue and forgotten"
                assert live[client_id].open_qty >= order.left, f"I4: {client_id} reserves less than may execute"

    # ------------------------------------------------------------------ tools

    def _equity(self) -> Decimal:
        """Return what everything is worth by what was heard: nobody can size an order by a loss not told yet."""
        held = self.ledger.books.held
        return held["USDT"] + sum(
            (held[s.split("/")[0]] * Decimal(str(self.driver.prices[s])) for s in self.driver.config.universe), ZERO
        )

    def _pick(self, place: int, *statuses: str) -> Placed:
        orders = self.venue.having(*statuses)
        return orders[place % len(orders)]

    def _ask_end(self, client_id: str) -> None:
        if client_id in self.venue.orders and client_id not in self.ends_asked:
            self.ends_asked.append(client_id)

    def _unknown(self, order: Placed) -> OrderUpdate:
        return msgspec.structs.replace(
            self.venue.say(order, OrderState.UNKNOWN, self.driver.now_ns, source="send"), venue_id="", filled=ZERO
        )

    def _hand_over(self, one: OrderUpdate | Fill) -> None:
        if one not in self.venue.mail:
            return
        self.venue.mail.remove(one)
        self.venue.read.append(one)
        if isinstance(one, Fill):
            known = self.ended.get(one.client_id, "")
            self.seen["late fill"] += bool(known)
        self.driver.send(one)

    def _doubtful(self) -> list[Placed]:
        if not hasattr(self, "driver"):
            return []
        live = self.driver.engine.state.blotter.live.values()
        unknown = {one.intent.client_id for one in live if one.state in {OrderState.UNKNOWN, OrderState.RESOLVING}}
        return [order for client_id, order in self.venue.orders.items() if client_id in unknown]

    def _resolve(self, order: Placed) -> None:
        """Tell what a query shows; absence for more than a minute is a proof, and is given at once here."""
        for fill in self.venue.missing(order.intent.client_id):
            self._hand_over(fill)
        states: dict[str, OrderState] = {state.value: state for state in OrderState if state.value in ENDED}
        states["open"] = OrderState.ACKED
        if order.status == "lost":
            self.seen["never placed"] += 1
            order.status = "never"
            self.driver.send(self.venue.say(order, OrderState.NEVER_PLACED, self.driver.now_ns, source="query"))
        elif order.status in states:
            self.seen["found"] += 1
            self.driver.send(self.venue.say(order, states[order.status], self.driver.now_ns, source="query"))

    def _catch_up(self) -> None:
        """Let REST tell all executions and ends that the stream did not, and compare."""
        for one in tuple(self.venue.mail):
            self._hand_over(one)
        self.driver.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=self.driver.now_ns))

    def _flow(self, asset: str, amount: Decimal, detail: str) -> None:
        self.venue.truth.flow(asset, amount)
        self.driver.send(Flow(asset, amount, ours=True, detail=detail, ts_ns=self.driver.now_ns))
