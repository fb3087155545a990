"""What every driver shares: the cases, the data, the stopwatch, and the way a driver talks to the benchmark.

Runs inside the peers' interpreters, beside the driver's own file: the standard library and numpy only. A driver prepares one
case, says ``ready``, then makes one repeat for every line it is sent, so that engines can take turns without paying for
their imports again; with ``--repeats`` it does so by itself. At the end it prints one line of JSON with everything.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np

BAR_MS = 60_000
START_MS = 1_704_067_200_000
"""2024-01-01T00:00Z: when every series begins."""
DAY_MS = 86_400_000
CAPITAL = 1_000_000.0
FEE = 0.001
SHARE = 0.9
"""Part of the equity that is invested when every asset is held; each asset gets an equal part of it."""
FAST, SLOW = 10, 20
"""Bars of the two exponential averages."""
BASES = ("BTC", "ETH", "SOL", "BNB", "XRP", "ADA", "DOGE", "AVAX", "LINK", "LTC")
VOLATILITY_BAR = 5e-4
SEED = 2
RISK_AVERSION = 0.5
"""Of the variance: mu'w - 0.5 w'Sw - cost, the same problem as ours with a risk tolerance of 1."""
WEIGHT_MAX = 0.3
MIN_CASH = 0.01
HISTORY = 252
"""Periods before the first decision of the portfolio case: what covariances are estimated from."""
MOMENTUM = 20
"""The portfolio case's forecast: the mean return of this many periods. The same numbers for every engine."""


@dataclass(frozen=True)
class Case:
    """What is run: ``kind`` is noop, ema or portfolio; ``bars`` bars of each of ``assets`` assets.

    ``variant`` is another way in which a driver can do the same, "" for the usual one.
    """

    kind: str
    assets: int
    bars: int
    variant: str = ""

    @classmethod
    def of(cls, name: str) -> "Case":
        kind, _, size = name.partition("-")
        assets, _, bars = size.partition("x")
        return cls(kind, int(assets), int(bars))

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.assets}x{self.bars}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return base assets: well-known names first, then numbered ones."""
        return tuple(BASES[i] if i < len(BASES) else f"A{i:03d}" for i in range(self.assets))

    @property
    def work(self) -> int:
        """Return what one repeat is divided by: bars of all assets together, or periods of a portfolio."""
        return self.bars if self.kind == "portfolio" else self.assets * self.bars

    @property
    def unit(self) -> str:
        return "periods/s" if self.kind == "portfolio" else "bars/s"


def walk(case: Case) -> np.ndarray:
    """Return synthetic bars (n_bars, n_assets, 5): open high low close volume, each open the close before it.

    With that no engine gains by filling at the close where another fills at the next open. The extremes lie outside both,
    all on the tick of 0.01.
    """
    rng = np.random.default_rng(SEED)
    steps = rng.normal(0.0, VOLATILITY_BAR, (case.bars, case.assets))
    close = np.round(30_000.0 * np.exp(np.cumsum(steps, axis=0)), 2)
    before = np.vstack([np.full((1, case.assets), 30_000.0), close[:-1]])
    high = np.round(np.maximum(before, close) * 1.0003, 2)
    low = np.round(np.minimum(before, close) * 0.9997, 2)
    volume = np.round(rng.exponential(1_000.0, close.shape) + 1_000.0, 4)
    return np.stack([before, high, low, close, volume], axis=2)


def factor_walk(case: Case) -> np.ndarray:
    """Return daily bars of a market with three common factors, ``HISTORY`` periods longer than the case."""
    rng = np.random.default_rng(SEED + 1)
    n = case.bars + HISTORY
    factors = rng.normal(0.0, 0.01, (n, 3))
    loads = rng.normal(1.0, 0.4, (3, case.assets))
    returns = np.clip(0.3 * factors @ loads + rng.normal(0.0, 0.012, (n, case.assets)), -0.2, 0.2)
    close = np.round(1_000.0 * np.cumprod(1.0 + returns, axis=0), 2)
    before = np.vstack([np.full((1, case.assets), 1_000.0), close[:-1]])
    high, low = np.round(np.maximum(before, close) * 1.001, 2), np.round(np.minimum(before, close) * 0.999, 2)
    return np.stack([before, high, low, close, np.full(close.shape, 1e6)], axis=2)


def data_file(case: Case, folder: Path) -> Path:
    """Return the file with a case's bars, written on first use; all engines read the same one."""
    shape = "factors" if case.kind == "portfolio" else "walk"
    path = folder / f"{shape}-{case.assets}x{case.bars}-seed{SEED}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.npy")
        np.save(part, factor_walk(case) if case.kind == "portfolio" else walk(case))
        part.rename(path)
    return path


def momentum(close: np.ndarray) -> np.ndarray:
    """Return the forecasts (n_periods, n_assets) of the portfolio case; row t knows the closes up to and with row t."""
    returns = close[1:] / close[:-1] - 1.0
    sums = np.vstack([np.zeros((1, close.shape[1])), np.cumsum(returns, axis=0)])
    forecasts = np.zeros_like(close)
    forecasts[MOMENTUM:] = (sums[MOMENTUM:] - sums[:-MOMENTUM]) / MOMENTUM
    return forecasts


@dataclass(frozen=True)
class Repeat:
    """One repeat: wall and CPU seconds of the timed part, and what shows that the work was done."""

    seconds: float
    cpu_s: float
    orders: int
    final_equity: float
    note: str = ""


class Stopwatch:
    """Times a block, wall and CPU of this process; garbage is collected before it, not in it."""

    seconds = cpu_s = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_s = time.perf_counter() - self._wall, time.process_time() - self._cpu


Prepare = Callable[[Case, np.ndarray, Path], Callable[[], Repeat]]


def _own_output() -> TextIO:
    """Keep the real standard output for results; whatever the engine prints goes to standard error."""
    own = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return own


def serve(engine: str, prepare: Prepare, argv: Sequence[str] | None = None) -> int:
    """Run a driver: prepare the case, repeat it, print the summary.

    ``engine`` is the name of the distribution, whose version is reported.
    """
    parser = argparse.ArgumentParser(description=f"drives {engine} for the backtest benchmark")
    parser.add_argument("--case", required=True, type=Case.of, help="kind-ASSETSxBARS, e.g. ema-10x5000")
    parser.add_argument("--data", required=True, type=Path, help="the .npy file with the bars")
    parser.add_argument("--scratch", required=True, type=Path, help="an existing folder of the driver's own")
    parser.add_argument("--variant", default="", help="another way in which this driver can do it")
    parser.add_argument("--repeats", type=int, default=0, help="by itself this often; 0: once a line on standard input")
    args = parser.parse_args(argv)
    scratch = args.scratch.resolve()
    data = np.load(args.data.resolve())
    out = _own_output()
    os.chdir(scratch)
    once = prepare(replace(args.case, variant=args.variant), data, scratch)
    out.write(json.dumps({"ready": engine}) + "\n")
    seen: list[Repeat] = []
    for _ in range(args.repeats) if args.repeats else sys.stdin:
        seen.append(once())
        out.write(json.dumps(vars(seen[-1])) + "\n")
    out.write(json.dumps(summary(engine, args.case, seen)) + "\n")
    return 0


def summary(engine: str, case: Case, seen: Sequence[Repeat]) -> dict[str, Any]:
    """Return the one line that a driver ends with."""
    return {
        "engine": engine,
        "version": importlib.metadata.version(engine),
        "case": case.name,
        "bars_per_second": [case.work / one.seconds for one in seen],
        "orders": seen[-1].orders if seen else 0,
        "final_equity": seen[-1].final_equity if seen else 0.0,
        "note": seen[-1].note if seen else "",
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
