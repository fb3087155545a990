"""Load: twice the recorded peak of market data through the real daemon for minutes, while it trades every second.

Nothing may be dropped (the exchange's own counts of orders and executions are the ledger's), no trade may be missed, and
the daemon's memory must not grow. Prints a line every ten seconds and a verdict; writes ``.bench/load.json``.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.e2e.kit import REPO, Daemon, Exchange, assert_same, until

PEAK_FRAMES_PER_S: Final = 1_588
"""The busiest second of Binance spot's recorded streams of BTCUSDT and ETHUSDT together (2024-08-08, six minutes:
`trade`, `bookTicker`, `depth@100ms`); the mean is 216."""
SYMBOLS: Final = ("BTC", "ETH", "SOL", "XRP", "ADA", "DOGE", "LTC", "LINK", "SIM009", "SIM010")
FRAMES_PER_TRADE: Final = 1.85
"""Frames that the simulated exchange sends per trade: the trade itself, and the book's top whenever it changed."""
SAMPLE_S: Final = 1.0
TELL_S: Final = 10.0
WARM_SHARE: Final = 1 / 3
"""The first part of a run fills buffers; memory is judged on the rest."""
JUDGED_S: Final = 300.0
"""Memory is judged in runs at least this long; in shorter ones it is only printed."""
PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20
GROWTH_MAX: Final = 0.3
"""Memory may grow by so many MB per minute besides the records of orders."""
ORDER_KB: Final = 2.5
"""What an order leaves in caches that are bounded (the blotter keeps 5,000 ended orders, the tracker 10,000, the account the
keys of 200,000 executions): until they are full, about 20 minutes at this rate, memory may grow by that for each."""
OUT: Final = REPO / ".bench" / "load.json"


class Sample(NamedTuple):
    """One look at the two processes."""

    at_s: float
    rss_mb: float
    cpu_s: float
    frames: int
    user_frames: int


class Report(NamedTuple):
    """What a run came to; ``wrong`` is empty when everything held."""

    seconds: float
    frames_per_s: float
    frames: int
    ticks: int
    gaps: int
    reconnects: int
    orders: int
    fills: int
    user_frames: int
    rss_mb: float
    growth_mb_per_min: float
    allowed_mb_per_min: float
    cpu_us_per_frame: float
    wrong: list[str]


def run(folder: Path, seconds: float, frames_per_s: float) -> Report:
    """Run exchange and daemon under load; never raises for what the run is to find out."""
    rate = frames_per_s / FRAMES_PER_TRADE / len(SYMBOLS)
    options = ("--trades-per-s", rate, "--touch-notional", 3_000, "--volatility-bar", 0.001)
    with Exchange(*options, symbols=len(SYMBOLS)) as exchange:
        daemon = Daemon(
            exchange,
            folder,
            universe=[f"{name}/USDT" for name in SYMBOLS],
            strategy="tests.sim.strategy:Restless",
            execution={"order": "ioc"},
            risk={"max_weight": 0.2, "max_order_notional": 0.02, "stop_loss": 0.5, "trailing_stop": 0.5},
        )
        with daemon:
            daemon.wait_ready()
            samples = [look(daemon, exchange)]
            told_s = samples[0].at_s
            while samples[-1].at_s - samples[0].at_s < seconds:
                time.sleep(SAMPLE_S)
                samples.append(look(daemon, exchange))
                if samples[-1].at_s - told_s >= TELL_S:
                    told_s = samples[-1].at_s
                    tell(samples)
            daemon.settle()
            return judge(daemon, exchange, samples, frames_per_s)


def look(daemon: Daemon, exchange: Exchange) -> Sample:
    """Take a sample."""
    assert daemon.process is not None
    stats = exchange.ask("/sim/stats")
    folder = Path("/proc") / str(daemon.process.pid)
    spent = (folder / "stat").read_text().rpartition(")")[2].split()
    return Sample(
        at_s=time.monotonic(),
        rss_mb=int((folder / "statm").read_text().split()[1]) * PAGE_MB,
        cpu_s=(int(spent[11]) + int(spent[12])) / 100,
        frames=int(stats["market_frames"]),
        user_frames=int(stats["user_frames"]),
    )


def tell(samples: list[Sample]) -> None:
    """Print how it goes."""
    first, last = samples[0], samples[-1]
    passed_s = last.at_s - first.at_s
    print(
        f"{passed_s:6.0f} s  {(last.frames - first.frames) / passed_s:6.0f} frames/s  "
        f"{last.user_frames - first.user_frames} order reports  {last.rss_mb:.1f} MB",
        flush=True,
    )


def slope(samples: list[Sample]) -> float:
    """Return how fast memory grows by least squares, MB per minute."""
    mean_t = sum(one.at_s for one in samples) / len(samples)
    mean_m = sum(one.rss_mb for one in samples) / len(samples)
    spread = sum((one.at_s - mean_t) ** 2 for one in samples)
    return 60 * sum((one.at_s - mean_t) * (one.rss_mb - mean_m) for one in samples) / spread if spread else 0.0


def judge(daemon: Daemon, exchange: Exchange, samples: list[Sample], wanted: float) -> Report:
    """Compare what was sent with what was heard, and the exchange's books with the ledger."""
    first, last = samples[0], samples[-1]
    seconds = last.at_s - first.at_s
    counted = counts(daemon)
    truth = exchange.truth()
    growth = slope(samples[int(len(samples) * WARM_SHARE) :])
    allowed = GROWTH_MAX + ORDER_KB / 1024 * len(truth["orders"]) / (seconds / 60)
    wrong: list[str] = []
    try:
        until(lambda: same(daemon, exchange), timeout_s=10, what="the last reports")
    except AssertionError:
        wrong.append(f"ledger and exchange differ: {difference(daemon, exchange)}")
    if counted["ballast_feed_gaps_total"] or counted["ballast_feed_reconnects_total"]:
        wrong.append(f"market data was missed: {counted}")
    frames_per_s = (last.frames - first.frames) / seconds
    if frames_per_s < 0.95 * wanted:
        wrong.append(
            f"only {frames_per_s:.0f} of {wanted:.0f} frames/s were sent: the machine is too slow for the load"
        )
    if seconds >= JUDGED_S and growth > allowed:
        wrong.append(f"memory grows by {growth:.2f} MB per minute, {allowed:.2f} is explained")
    if not truth["fills"]:
        wrong.append("nothing was traded")
    return Report(
        seconds=round(seconds, 1),
        frames_per_s=round(frames_per_s),
        frames=last.frames - first.frames,
        ticks=counted["ballast_ticks_total"],
        gaps=counted["ballast_feed_gaps_total"],
        reconnects=counted["ballast_feed_reconnects_total"],
        orders=len(truth["orders"]),
        fills=len(truth["fills"]),
        user_frames=last.user_frames,
        rss_mb=round(last.rss_mb, 1),
        growth_mb_per_min=round(growth, 3),
        allowed_mb_per_min=round(allowed, 3),
        cpu_us_per_frame=round(1e6 * (last.cpu_s - first.cpu_s) / max(1, last.frames - first.frames), 1),
        wrong=wrong,
    )


def same(daemon: Daemon, exchange: Exchange) -> bool:
    """Say whether the ledger is what the exchange has."""
    return not difference(daemon, exchange)


def difference(daemon: Daemon, exchange: Exchange) -> str:
    """Return what ledger and exchange differ in, "" when in nothing."""
    try:
        assert_same(daemon.ledger, exchange.truth())
    except AssertionError as error:
        return str(error)[:500] or "they differ"
    return ""


def counts(daemon: Daemon) -> dict[str, int]:
    """Return the daemon's own counters, summed over their labels."""
    names = ("ballast_ticks_total", "ballast_feed_gaps_total", "ballast_feed_reconnects_total")
    lines = daemon.metrics().splitlines()
    return {
        name: round(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))) for name in names
    }


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--times", type=float, default=2.0, help="multiple of the recorded peak")
    options = parser.parse_args(arguments)
    wanted, peak = options.times * PEAK_FRAMES_PER_S, PEAK_FRAMES_PER_S
    print(
        f"load: {wanted:.0f} frames/s ({options.times:g} x the recorded peak of {peak}) for {options.minutes:g} minutes"
    )
    with tempfile.TemporaryDirectory(prefix="ballast-load-") as folder:
        report = run(Path(folder), 60 * options.minutes, wanted)
    written: dict[str, Any] = {"times_peak": options.times, **report._asdict()}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(written, indent=1))
    print(json.dumps(written))
    for line in report.wrong:
        print(f"FAILED load: {line}\n  again: .venv/bin/python -m tests.soak.load --minutes {options.minutes:g}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
