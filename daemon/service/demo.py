"""The demonstration: a simulated exchange and the daemon in one go, on real wire protocol, ending with a reconciliation.

The exchange runs in a process of its own and speaks Binance's protocol on loopback; the daemon runs here in live mode
against it, with real ccxt, real websockets, SQLite and an LSTM trained at the start. On the way the demo cuts the
streams once and lets the price of a held asset fall, so that a reconnect and a stop are seen at work.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.console import Console

from daemon.core.planner import client_prefix
from daemon.domain.events import Action, Alert, Booked, Effect, Step, Submit
from daemon.domain.orders import Fill
from daemon.edge.ledger_read import LedgerReader
from daemon.edge.orders import LiveVenue
from daemon.service.comparing import Comparison, compare_ledger, document
from daemon.service.lifecycle import Service
from daemon.service.place import ledger_place
from daemon.settings import Settings, load_settings

BAR_HORIZON = 10
PLANTED_R2 = 0.45
PLANTED_PERSISTENCE = 0.90
VOLATILITY_BAR = 0.0015
ORDERS_MIN = 20
READY_S_MAX = 90.0
DISCONNECT_AT = 0.30
CRASH_AT = 0.50
CRASH_PCT = 8.0
CRASH_WEIGHT_MIN = 0.03
SETTLE_S_MAX = 8.0
KEY, SECRET = "sim-key", "sim-secret"


class Seen:
    """What happened during the demo."""

    def __init__(self) -> None:
        self.sent: dict[str, Decimal] = {}
        self.filled: defaultdict[str, Decimal] = defaultdict(Decimal)
        self.parts: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.alerts: Counter[str] = Counter()
        self.last: Step | None = None

    def watch(self, effect: Effect) -> None:
        """Count one effect."""
        match effect:
            case Submit():
                self.sent |= {one.intent.client_id: one.intent.qty for one in effect.approved}
            case Booked(fill=Fill() as fill):
                self.filled[fill.client_id] += fill.qty
                self.parts[fill.client_id] += 1
            case Step():
                self.outcomes[effect.outcome] += 1
                self.last = effect
            case Alert():
                self.alerts[effect.code] += 1
            case _:
                pass

    @property
    def partial(self) -> int:
        """Return how many orders were filled in several executions or not to the end."""
        return sum(count > 1 or self.filled[name] < self.sent.get(name, 0) for name, count in self.parts.items())

    @property
    def stops(self) -> int:
        """Return how many stops were triggered."""
        return sum(self.alerts[code] for code in ("stop_loss", "trailing_stop", "volatility_stop"))


def run_demo(*, seconds: float, seed: int, as_json: bool) -> int:
    """Run the demo; 0 only if everything reconciled and enough happened, else 3."""
    out = Console(stderr=as_json, highlight=False, soft_wrap=True)
    report = asyncio.run(_demo(seconds, seed, out))
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0 if report["ok"] else 3


@contextlib.asynccontextmanager
async def simulated_exchange(seed: int) -> AsyncGenerator[str]:
    """Start the simulated exchange in a process of its own; yield its base address without the scheme."""
    options = {
        "--port": 0,
        "--seed": seed,
        "--planted-r2": PLANTED_R2,
        "--planted-horizon-bars": BAR_HORIZON,
        "--planted-persistence": PLANTED_PERSISTENCE,
        "--volatility-bar": VOLATILITY_BAR,
    }
    arguments = ["--exit-with-parent", *(str(part) for pair in options.items() for part in pair)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.exchange", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        line = await process.stdout.readline() if process.stdout is not None else b""
        yield f"127.0.0.1:{msgspec.json.decode(line)['port']}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5.0)
        except TimeoutError:
            process.kill()
            await process.wait()


def demo_settings(base: str, state_dir: Path) -> Settings:
    """Return the demo's configuration: live mode against the simulated exchange, one-second bars, small limits."""
    text = f"""
mode = "live"
live_confirm = "demo"
instance = "demo"
universe = ["BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT", "DOGE/USDT", "LTC/USDT", "LINK/USDT"]
bar = "1s"
state_dir = "{state_dir}"
[exchange]
rest_url = "http://{base}"
ws_url = "ws://{base}"
[feed]
backfill_bars = 600
grace_ms = 300
[forecast]
horizon_bars = {BAR_HORIZON}
train_bars = 2000
train_seconds_max = 13
[optimizer]
risk_tolerance = 1.0
turnover_max_day = 500.0
[risk]
max_order_notional = 0.05
stop_loss = 0.04
stop_cooldown = "1m"
max_drawdown = 0.30
max_daily_loss = 0.25
cvar_limit = 1.0
[api]
listen = "127.0.0.1:0"
[metrics]
listen = "127.0.0.1:0"
[ui]
listen = ""
"""
    file = state_dir / "demo.toml"
    file.write_text(text)
    return load_settings([file], {"BALLAST_EXCHANGE__API_KEY": KEY, "BALLAST_EXCHANGE__API_SECRET": SECRET})


async def _demo(seconds: float, seed: int, out: Console) -> dict[str, Any]:
    started = time.monotonic()  # noqa: TID251 - what the user waits for, not what the engine knows
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="ballast-demo-") as folder:
        async with simulated_exchange(seed) as base:
            out.print(f"[bold]simulated exchange[/] on http://{base} (Binance's protocol, seed {seed})")
            settings = demo_settings(base, Path(folder))
            service = Service(settings)
            service.trap_signals()
            try:
                await service.start()
                service.watch_also(seen.watch)
                out.print("training an LSTM on the exchange's own history; nothing is traded meanwhile")
                await _until_ready(service, out)
                ready_s = time.monotonic() - started  # noqa: TID251
                out.print(
                    f"[bold]trading-ready[/] after {ready_s:.1f} s; "
                    f"API http://{service.api.address}/api/docs, metrics http://{service.scrape.address}/metrics"
                )
                await _trade(service, seconds, base, seen, out)
                await _settle(service)
                comparison = await _compare(service, settings)
            finally:
                await service.stop()
            return _summary(comparison, seen, service, out)


async def _until_ready(service: Service, out: Console) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_S_MAX
    while loop.time() < deadline and not service.stop_requested:
        if service.ready_ns and service.engine.state.model:
            return
        await asyncio.sleep(0.1)
    reasons = "; ".join(f"{reason.code}: {reason.detail}" for reason in service.desk.not_ready())
    out.print(f"[red]not trading-ready after {READY_S_MAX:.0f} s[/]: {reasons}")


async def _trade(service: Service, seconds: float, base: str, seen: Seen, out: Console) -> None:
    """Let it trade; cut the streams at 30 % of the time; from 50 % on let a held asset fall until a stop was seen."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    cut = False
    told = 0.0
    fallen: set[str] = set()
    async with aiohttp.ClientSession() as http:
        while (elapsed := loop.time() - begun) < seconds and not service.stop_requested:
            if not cut and elapsed > DISCONNECT_AT * seconds:
                cut = True
                await _steer(http, base, "disconnect", {})
                out.print("[yellow]demo:[/] the exchange cuts every stream")
            if elapsed > CRASH_AT * seconds and not seen.stops:
                symbol = _largest(service)
                if symbol and symbol not in fallen:
                    fallen.add(symbol)
                    await _steer(http, base, "crash", {"symbol": symbol.replace("/", ""), "pct": CRASH_PCT})
                    out.print(f"[yellow]demo:[/] {symbol} falls by {CRASH_PCT:g} %")
            if elapsed - told >= 5.0:
                told = elapsed
                _tell(service, seen, elapsed, out)
            await asyncio.sleep(0.1)


async def _steer(http: aiohttp.ClientSession, base: str, what: str, body: dict[str, Any]) -> None:
    async with http.post(f"http://{base}/sim/{what}", json=body) as answer:
        answer.raise_for_status()


def _largest(service: Service) -> str:
    """Return the symbol of the largest position, "" while none is worth a stop."""
    state = service.engine.state
    equity = state.equity()
    weights = dict(zip(state.symbols, state.weights(equity), strict=True)) if equity is not None else {}
    symbol = max(weights, key=lambda name: weights[name], default="")
    return symbol if weights.get(symbol, 0.0) >= CRASH_WEIGHT_MIN else ""


def _tell(service: Service, seen: Seen, elapsed: float, out: Console) -> None:
    state = service.engine.state
    equity = state.equity()
    held = ", ".join(f"{symbol.split('/')[0]} {qty:f}" for symbol, qty in sorted(state.account.positions.items()))
    out.print(
        f"{elapsed:5.0f} s  {state.trading.value:<8} equity {equity if equity is not None else 0:.2f}  "
        f"orders {len(seen.sent)}  fills {service.desk.counts['fills']}  holding {held or 'nothing'}"
    )


async def _settle(service: Service) -> None:
    """Make no more decisions and wait until every order's fate is known and booked."""
    service.command(Action.PAUSE, "demo")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_S_MAX
    while loop.time() < deadline and (service.engine.state.blotter.live or service.engine.state.exits.active):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await service.ledger.flush(SETTLE_S_MAX)


async def _compare(service: Service, settings: Settings) -> Comparison:
    venue = service.venue
    if not isinstance(venue, LiveVenue):
        raise TypeError("the demo trades on the simulated exchange")
    with LedgerReader(ledger_place(settings)) as reader:
        return await compare_ledger(reader, venue.calls, settings.universe, client_prefix(settings.instance))


def _summary(found: Comparison, seen: Seen, service: Service, out: Console) -> dict[str, Any]:
    partial = seen.partial
    reconnects = max(0, service.feed.connects - 1)
    enough = {
        f"at least {ORDERS_MIN} orders": found.orders >= ORDERS_MIN,
        "a partial fill": partial > 0,
        "a stop": seen.stops > 0,
        "a reconnect": reconnects > 0,
    }
    ok = found.ok and all(enough.values())
    out.print(
        f"\n[bold]summary[/]: {found.orders} orders, {found.fills} fills, {partial} filled in parts, {seen.stops} stops, "
        f"{reconnects} reconnects, {found.unresolved} unresolved; decisions {dict(seen.outcomes)}"
    )
    for row in found.rows:
        mark = "[green]equal[/]" if row.ledger == row.exchange else "[red]DIFFERS[/]"
        out.print(f"  {row.asset:<6} ledger {row.ledger:f}  exchange {row.exchange:f}  {mark}")
    out.print(
        f"  orders: ledger {found.orders}, exchange {found.exchange_orders}; fills: {found.fills}, {found.exchange_fills}"
    )
    missing = [what for what, is_there in enough.items() if not is_there]
    if missing:
        out.print(f"[red]not seen[/]: {', '.join(missing)}")
    out.print("[bold green]reconciled to the last unit[/]" if found.ok else "[bold red]NOT reconciled[/]")
    return {
        **document(found),
        "ok": ok,
        "partial_fills": partial,
        "stops": seen.stops,
        "reconnects": reconnects,
    }
