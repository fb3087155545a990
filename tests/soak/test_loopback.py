"""Ten seeds over loopback: real sockets, real processes, seeded faults for some seconds, then everything is compared.

What the simulation plays on virtual time (`tests.sim`) is repeated here with nothing simulated but the exchange. A
failing seed is reproduced by ``pytest tests/soak/test_loopback.py -k "<seed>"``; it runs on a daemon of its own then.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.kit import UNCERTAIN, compare, intents
from tests.e2e.conftest import STRONG
from tests.e2e.kit import Daemon, Exchange, http, until

SEEDS = range(1, 11)
FAULTS_S = 2.5
FAULTS_S_MAX = 15.0
FIRED_MIN = 3
GAP_S = 0.3
"""Mean time between two faults."""
ORDER = "POST /api/v3/order"
HEALED_S = 60.0
"""I9, I16: so long after the last fault everything agrees and trading goes on."""

Script = Callable[["Chaos", random.Random], None]


class Chaos:
    """Faults of one seed on one exchange."""

    def __init__(self, exchange: Exchange, seed: int) -> None:
        self.exchange = exchange
        self.rng = random.Random(f"loopback {seed}")
        self.rules: dict[int, str] = {}
        self.done: Counter[str] = Counter()

    def rule(self, name: str, match: str, action: str, **more: Any) -> None:
        """Script a fault; it counts when it fires."""
        self.rules[self.exchange.fault(match, action, seed=self.rng.randrange(10**9), **more)] = name

    def run(self, seconds: float) -> Counter[str]:
        """Let faults happen, for longer while too few did (no order may be on its way), heal; return how often each one did."""
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + seconds or (
            self._fired() < FIRED_MIN and time.monotonic() < begun_s + FAULTS_S_MAX
        ):
            name, script = self.rng.choice(FAULTS)
            self.done[name] += 0
            script(self, self.rng)
            time.sleep(self.rng.expovariate(1 / GAP_S))
        fired = self.exchange.ask("/sim/faults")["fired"]
        for number, name in self.rules.items():
            self.done[name] += int(fired.get(str(number), 0))
        self.exchange.heal()
        self.exchange.steer("fee", rate="0.001")
        return self.done

    def _fired(self) -> int:
        return sum(self.done.values()) + sum(map(int, self.exchange.ask("/sim/faults")["fired"].values()))


def on_orders(name: str, action: str, **more: Any) -> tuple[str, Script]:
    """Return a fault of one or two order requests."""
    return name, lambda chaos, rng: chaos.rule(name, ORDER, action, times=rng.randint(1, 2), **more)


def on_frames(name: str, match: str, action: str, **more: Any) -> tuple[str, Script]:
    """Return a fault of some frames."""
    return name, lambda chaos, rng: chaos.rule(name, match, action, times=rng.randint(1, 3), **more)


def disconnect(chaos: Chaos, rng: random.Random) -> None:
    """F13: cut a websocket connection."""
    chaos.done["F13"] += int(chaos.exchange.steer("disconnect", kind=rng.choice(("market", "user")))["closed"])


def deposit(chaos: Chaos, rng: random.Random) -> None:
    """F38: money from outside."""
    chaos.exchange.steer("deposit", asset="USDT", amount=rng.choice(("100", "0.01")))
    chaos.done["F38"] += 1


def crash(chaos: Chaos, rng: random.Random) -> None:
    """F42: a jump of the price."""
    chaos.exchange.steer("crash", symbol=rng.choice(("BTCUSDT", "ETHUSDT", "SOLUSDT")), pct=rng.choice((-2, 3)))
    chaos.done["F42"] += 1


def fee(chaos: Chaos, rng: random.Random) -> None:
    """F40: another fee."""
    chaos.exchange.steer("fee", rate=rng.choice(("0", "0.00075")))
    chaos.done["F40"] += 1


def unsure(chaos: Chaos, rng: random.Random) -> None:
    """FAULTS 1.1: a code that proves nothing, the order placed or not."""
    code, status = rng.choice(((-1007, 504), (-1006, 400), (-1001, 400)))
    chaos.rule("1.1", ORDER, "error", code=code, status=status, handle=rng.random() < 0.7)


FAULTS: tuple[tuple[str, Script], ...] = (
    on_orders("F3", "cut_after"),
    on_orders("F3 before", "cut"),
    on_orders("F4", "truncate"),
    on_orders("F5", "empty"),
    on_orders("F5", "html"),
    on_orders("F5", "broken"),
    on_orders("F7", "late", seconds=1.0),
    on_orders("F8", "error", status=503, code=-1008),
    on_orders("F9", "error", status=429, code=-1003, headers={"Retry-After": "1"}),
    on_orders("F30", "delay_after", seconds=0.7),
    on_orders("refused", "error", status=400, code=-2010, msg="Account has insufficient balance for requested action."),
    on_frames("F19", "frame *@aggTrade", "skip"),
    on_frames("F20", "frame *@aggTrade", "duplicate"),
    on_frames("F21", "frame *@aggTrade", "reorder"),
    on_frames("F30", "user *", "reorder"),
    on_frames("F31", "user executionReport", "duplicate"),
    on_frames("F32", "user executionReport", "skip"),
    ("F13", disconnect),
    ("F38", deposit),
    ("F40", fee),
    ("F42", crash),
    ("1.1", unsure),
)


class Bench:
    """One exchange and one daemon, for several seeds."""

    def __init__(self, folder: Path) -> None:
        self.exchange = Exchange(*STRONG, "--touch-notional", 2_000, symbols=5, history_bars=400)
        self.daemon = Daemon(
            self.exchange,
            folder,
            universe=["BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT"],
            strategy="tests.sim.strategy:Restless",
            feed={"backfill_bars": 60},
            risk={"max_weight": 0.2, "stop_loss": 0.5, "trailing_stop": 0.5},
        )
        self.daemon.start().wait_ready()

    def close(self) -> None:
        """End both."""
        self.daemon.close()
        self.exchange.close()

    def command(self, name: str) -> None:
        """Give an operator's command through the API."""
        token = (self.daemon.state_dir / "api.control.token").read_text().strip()
        status, body = http(f"http://{self.daemon.address}/api/v1/{name}", post={}, token=token)
        assert status < 300, (name, status, body)

    def agrees(self) -> str:
        """Return what ledger and exchange differ in, "" when in nothing; orders still looked for are not at the exchange."""
        truth = self.exchange.truth()
        unknown = [name for name, state in intents(self.daemon).items() if state in UNCERTAIN]
        if set(unknown) & {one["client_id"] for one in truth["orders"]}:
            return "an order of the exchange is uncertain in the ledger"
        try:
            compare(self.daemon, truth, uncertain=len(unknown))
        except (AssertionError, KeyError) as error:
            return f"{type(error).__name__}: {str(error)[:400]}"
        return ""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The pair that all seeds of this worker share: what one leaves behind is where the next one begins."""
    made = Bench(tmp_path_factory.mktemp("loopback"))
    yield made
    made.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_over_loopback_keeps_every_invariant(bench: Bench, seed: int) -> None:
    """I1, I2, I3, I9, I16: nothing doubled, nothing lost, the books agree to the last digit and trading goes on."""
    daemon, exchange = bench.daemon, bench.exchange
    chaos = Chaos(exchange, seed)
    if seed % 5 == 0:  # F43: in the middle of it
        chaos.run(FAULTS_S / 2)
        daemon.kill9()
        daemon.start()
    fired = chaos.run(FAULTS_S)
    if seed % 5 == 0:
        daemon.wait_ready()

    bench.command("pause")
    until(
        lambda: not bench.agrees(),
        timeout_s=HEALED_S,
        what="agreement",
        why=lambda: f"{bench.agrees()}\n{daemon.tail()}",
    )
    sends = Counter(one["client_id"] for one in exchange.orders_sent())
    bench.command("resume")
    until(
        lambda: daemon.api("status")["state"] == "active",
        timeout_s=HEALED_S, what="trading", why=lambda: f"{daemon.api('status')}\n{daemon.tail()}",
    )  # fmt: skip

    assert sum(fired.values()) >= FIRED_MIN, fired
    assert max(sends.values()) == 1, "an order was sent twice"
