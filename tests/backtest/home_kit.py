"""What `ballast backtest` needs, made by chance: forty days of hourly candles of three pairs, and a configuration."""

from pathlib import Path

import numpy as np

from daemon.backtest.data.files import Candles, write
from tests.backtest.market import BEGIN_NS, HOUR_NS

PAIRS = ("BTC/USDT", "ETH/USDT", "XRP/USDT")
PRICES = (40_000.0, 2_000.0, 0.6)
HOURS = 40 * 24
CONFIG = """
universe = ["BTC/USDT", "ETH/USDT", "XRP/USDT"]
state_dir = "{var}"
[feed]
backfill_bars = 200
[forecast]
model = "ewma"
shrink = "none"
horizon_bars = 6
"""


def write_home(
    folder: Path, *, seed: int, drift: float, wicks: tuple[float, float], outage: slice | None = None
) -> Path:
    """Write candles from January 1 on and a configuration into a folder.

    Parameters
    ----------
    folder : Path
        Where `candles/` and `ballast.toml` go.
    seed : int
        Of the random walks: the steps of a pair are drawn first, then its volumes, pair after pair.
    drift : float
        Mean of the logarithmic return of an hour.
    wicks : tuple of float
        Factors of the higher and of the lower end of a bar's body that give its high and its low.
    outage : slice, optional
        Rows that are missing from every file.

    Returns
    -------
    Path
        The folder.
    """
    rng = np.random.default_rng(seed)
    times_ms = (BEGIN_NS + HOUR_NS * np.arange(HOURS)) // 1_000_000
    keep = np.ones(HOURS, dtype=bool)
    if outage is not None:
        keep[outage] = False
    for pair, price in zip(PAIRS, PRICES, strict=True):
        walk = np.round(price * np.exp(np.cumsum(rng.normal(drift, 0.01, HOURS + 1))), 2 if price > 1 else 4)
        first, last = walk[:-1], walk[1:]
        high, low = np.maximum(first, last) * wicks[0], np.minimum(first, last) * wicks[1]
        values = np.stack([first, high, low, last, rng.uniform(1e5, 1e6, HOURS) / price], axis=1)
        write(folder / "candles" / f"{pair.replace('/', '_')}-1h.parquet", Candles(times_ms[keep], values[keep]))
    (folder / "ballast.toml").write_text(CONFIG.format(var=folder / "var"), encoding="utf-8")
    return folder
