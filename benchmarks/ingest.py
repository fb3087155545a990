"""CPU per message from socket to bar, against cryptofeed's and ccxt.pro's Binance feeds on the same frames.

Every client is a process of its own pinned to one core, the sender another pinned to the next. The sender is a raw socket
that writes pre-encoded frames, so it is never the bottleneck. cryptofeed lives in an environment of its own, made on first
use under ``benchmarks/out/peers``; ccxt.pro comes with the ccxt we already have.

This file is also what the child processes run: in a peer's environment nothing of ours may be imported at the top.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
PEERS = HERE.parent / "out" / "peers"
CRYPTOFEED = "cryptofeed==2.4.1"
BASES = ("BTC", "ETH", "SOL", "BNB", "XRP", "ADA", "DOGE", "AVAX", "LINK", "LTC")
MESSAGES = 200_000
WARM = 40_000
REPEATS = 3
CHILD_TIMEOUT_S = 90.0
GOALS = {"cryptofeed": 1.4, "ccxt.pro": 5.0}
"""How many times less CPU per message the whole path of ours must take."""
TRADE_TO_BAR_US = 0.3
CLIENTS = ("ours", "engine", "cryptofeed", "ccxt.pro")
OURS = ("ours", "engine")
"""The bare path to a bar, and the same inside the engine with recorder, stops and metrics switched on: goals are for this."""
FIRST_ID = 3_000_000_000


# ---------------------------------------------------------------- clients


def pin(core: int) -> None:
    """Stay on one core where there are several."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


class Meter:
    """Counts messages; CPU between the end of the warm-up and the last message is the result."""

    def __init__(self) -> None:
        self.count = 0
        self._cpu = self._wall = 0.0

    def __call__(self) -> None:
        self.count = count = self.count + 1
        if count == WARM:
            self._cpu, self._wall = self._now(), time.perf_counter()
        elif count == MESSAGES:
            self.finish()

    def _now(self) -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def finish(self, **extra: object) -> None:
        """Print the result and leave at once."""
        measured = MESSAGES - WARM
        cpu, wall = self._now() - self._cpu, time.perf_counter() - self._wall
        rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            json.dumps({"cpu_us": 1e6 * cpu / measured, "rate": measured / wall, "rss_mb": rss_mb} | extra), flush=True
        )
        os._exit(0)


async def ours(port: int) -> None:
    """Our path: feed, decoder, continuity, bars."""
    from decimal import Decimal

    from daemon.core.bars import BarBuilder
    from daemon.core.continuity import Continuity
    from daemon.domain.market import Instrument, Tick
    from daemon.edge.clock import Clock
    from daemon.edge.feed import Feed
    from daemon.wire.binance import BinanceWire
    from daemon.wire.binance_streams import streams_of

    tick, step = Decimal("0.01"), Decimal("0.00001")
    pairs = [
        Instrument(f"{base}/USDT", f"{base}USDT", base, "USDT", tick, step, step, Decimal(9000), Decimal(5))
        for base in BASES
    ]
    markets = {one.symbol: (Continuity(one.symbol).accept, BarBuilder(one.symbol, 10**9).on_tick) for one in pairs}
    for accept, _ in markets.values():
        accept.__self__.start(-1)
    decode = BinanceWire(pairs, skew_ns_max=0).decode
    meter = Meter()
    bars: list[object] = []

    def on_frame(message: bytes, recv_ns: int) -> None:
        event = decode(message, recv_ns)
        if type(event) is not Tick:
            return
        accept, on_tick = markets[event.symbol]
        if accept(event) is not None:
            raise RuntimeError(f"broken continuity at {event}")
        closed = on_tick(event)
        if closed:
            bars.extend(closed)
        meter()

    url = f"ws://127.0.0.1:{port}/stream"
    await Feed(url, streams_of(pairs), on_frame, lambda *_: None, clock=Clock()).run()


async def engine(port: int) -> None:
    """The path of the running daemon."""
    from benchmarks.ingest_engine import engine as whole

    await whole(port, BASES, FIRST_ID, Meter())


async def ccxt_pro(port: int) -> None:
    """ccxt.pro's watch_trades_for_symbols; every message its client handles counts."""
    import ccxt.pro

    exchange = ccxt.pro.binance({"enableRateLimit": False, "newUpdates": True})
    markets = [
        exchange.safe_market_structure(
            {
                "id": f"{base}USDT", "lowercaseId": f"{base.lower()}usdt", "symbol": f"{base}/USDT", "base": base,
                "quote": "USDT", "baseId": base, "quoteId": "USDT", "type": "spot", "spot": True, "margin": False,
                "swap": False, "future": False, "option": False, "active": True, "contract": False,
                "precision": {"amount": 1e-8, "price": 1e-8}, "limits": {}, "info": {},
            }
        )
        for base in BASES
    ]  # fmt: skip
    exchange.set_markets(markets)
    exchange.urls["api"]["ws"] = redirect(exchange.urls["api"]["ws"], f"ws://127.0.0.1:{port}/stream/ws")
    meter, handle = Meter(), exchange.handle_trade

    def handle_trade(client: object, message: object) -> None:
        handle(client, message)
        meter()

    exchange.handle_trade = handle_trade
    while True:
        await exchange.watch_trades_for_symbols([f"{base}/USDT" for base in BASES])


def redirect(addresses: dict[str, Any], url: str) -> dict[str, Any]:
    """Return a table of addresses of the same shape that all lead to ``url``."""
    return {name: redirect(one, url) if isinstance(one, dict) else url for name, one in addresses.items()}


async def cryptofeed(port: int) -> None:
    """cryptofeed's Binance feed, trades channel, plain websocket."""
    import cryptofeed.connection as wires
    from cryptofeed import FeedHandler
    from cryptofeed.defines import TRADES
    from cryptofeed.exchanges import Binance
    from cryptofeed.symbols import Symbols

    plain = wires.connect
    wires.connect = lambda address, **options: plain(address.replace("wss://", "ws://"), **options)
    info: dict[str, dict[str, str]] = defaultdict(dict)
    for base in BASES:
        info["tick_size"][f"{base}-USDT"] = "0.00000001"
        info["instrument_type"][f"{base}-USDT"] = "spot"
    Symbols.set("BINANCE", {f"{base}-USDT": f"{base}USDT" for base in BASES}, info)
    Binance.websocket_endpoints = [wires.WebsocketEndpoint(f"wss://127.0.0.1:{port}")]
    meter = Meter()

    async def on_trade(*_: object) -> None:
        meter()

    handler = FeedHandler(config={"uvloop": False, "log": {"disabled": True, "filename": os.devnull, "level": "ERROR"}})
    pairs = [f"{base}-USDT" for base in BASES]
    handler.add_feed(Binance(symbols=pairs, channels=[TRADES], callbacks={TRADES: on_trade}))
    handler.run(start_loop=False, install_signal_handlers=False)
    await asyncio.sleep(CHILD_TIMEOUT_S)


# ---------------------------------------------------------------- the measurement


def peer_python() -> tuple[str, str]:
    """Return the interpreter of cryptofeed's environment, made when absent; ("", why) when it cannot be."""
    home = PEERS / "cryptofeed"
    python = home / "bin" / "python"
    if not (home / ".ready").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True, capture_output=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", CRYPTOFEED], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", b"") or str(error).encode()
            return (
                "",
                f"{CRYPTOFEED} could not be installed: {said.decode(errors='replace').strip().splitlines()[-1][:120]}",
            )
        (home / ".ready").touch()
    return str(python), ""


def once(client: str, python: str) -> dict[str, float]:
    """Run one client against one sender and return what it measured."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    sender = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ingest_sender", client], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert sender.stdout is not None
        port = sender.stdout.readline().decode().strip()
        done = subprocess.run(
            [python, str(HERE), "--client", client, "--port", port],
            check=False,
            capture_output=True,
            timeout=CHILD_TIMEOUT_S,
            env=environment if client in OURS else None,
        )
    finally:
        sender.kill()
        sender.wait()
    lines = done.stdout.decode().strip().splitlines()
    if not lines:
        raise RuntimeError(f"{client} measured nothing: {done.stderr.decode()[-300:]}")
    result: dict[str, float] = json.loads(lines[-1])
    return result


def trade_to_bar_us() -> float:
    """Return the time of one trade through a bar builder, µs, best of five runs."""
    from daemon.core.bars import BarBuilder
    from daemon.domain.market import Tick

    start = 1_720_000_000 * 10**9
    ticks = [
        Tick("BTC/USDT", at, 100.0 + at % 7, 1000 + at, start + at * 10**7, 0, sell=False) for at in range(100_000)
    ]
    times = []
    for _ in range(5):
        builder = BarBuilder("BTC/USDT", 60 * 10**9)
        builder.start(start, last_price=100.0, partial=False)
        on_tick: Callable[[Tick], object] = builder.on_tick
        begun = time.perf_counter()
        for tick in ticks:
            on_tick(tick)
        times.append(time.perf_counter() - begun)
    return 1e6 * min(times) / len(ticks)


def run(repeats: int = REPEATS) -> dict[str, object]:
    """Measure every client, interleaved; return medians, ratios to ours and whether the goals are met."""
    python, why = peer_python()
    interpreters = dict.fromkeys((*OURS, "ccxt.pro"), sys.executable) | ({"cryptofeed": python} if python else {})
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(repeats):
        for client in CLIENTS:
            if client in interpreters:
                seen[client].append(once(client, interpreters[client]))
    cpu = {client: statistics.median(one["cpu_us"] for one in runs) for client, runs in seen.items()}
    ratios = {client: cpu[client] / cpu["engine"] for client in GOALS if client in cpu}
    bar_us = trade_to_bar_us()
    return {
        "cpu_us_per_message": cpu,
        "spread_us": {
            name: [min(r["cpu_us"] for r in runs), max(r["cpu_us"] for r in runs)] for name, runs in seen.items()
        },
        "messages_per_s": {name: statistics.median(one["rate"] for one in runs) for name, runs in seen.items()},
        "rss_mb": {name: max(one["rss_mb"] for one in runs) for name, runs in seen.items()},
        "times_less_cpu": ratios,
        "goals": GOALS,
        "trade_to_bar_us": bar_us,
        "not_measured": {"cryptofeed": why} if why else {},
        "ok": all(ratios[name] >= GOALS[name] for name in ratios) and bar_us <= TRADE_TO_BAR_US,
    }


def report(result: dict[str, Any]) -> None:
    """Print a table."""
    print(f"socket → decode → continuity → bar, {MESSAGES - WARM:,} messages after warm-up, CPU µs per message")
    for name, cpu in result["cpu_us_per_message"].items():
        low, high = result["spread_us"][name]
        ratio = result["times_less_cpu"].get(name)
        goal = f"   {ratio:5.2f} × the engine (goal ≥ {GOALS[name]})" if ratio is not None else ""
        print(f"  {name:10s} {cpu:7.2f} [{low:.2f}..{high:.2f}]  {result['messages_per_s'][name]:9,.0f} msg/s{goal}")
    for name, why in result["not_measured"].items():
        print(f"  {name:10s} not measured: {why}")
    print(f"  trade → bar {result['trade_to_bar_us']:.3f} µs (goal ≤ {TRADE_TO_BAR_US})")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 3 when a goal is missed. The hidden arguments are for the child processes."""
    parser = argparse.ArgumentParser(prog="ingest", description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.client:
        pin(0)
        asyncio.run(
            {"ours": ours, "engine": engine, "cryptofeed": cryptofeed, "ccxt.pro": ccxt_pro}[args.client](args.port)
        )
    else:
        result = run(args.repeats)
        print(json.dumps(result)) if args.json else report(result)
        return 0 if result["ok"] else 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
