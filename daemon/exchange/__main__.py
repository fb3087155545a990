"""Run the simulated exchange alone: ``python -m daemon.exchange --port 0 --seed 1``."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from decimal import Decimal
from typing import Final

from daemon.exchange.config import ApiKey, Limits, SimConfig
from daemon.exchange.server import serve

__all__ = ["main"]

_PARENT_POLL_SECONDS: Final = 0.5


def _parser() -> argparse.ArgumentParser:
    defaults = SimConfig()
    parser = argparse.ArgumentParser(
        prog="python -m daemon.exchange", description="A simulated Binance Spot on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one and prints it")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--symbols", type=int, default=defaults.symbols)
    parser.add_argument("--pad-symbols-to", type=int, default=defaults.pad_symbols_to)
    parser.add_argument(
        "--bar-s", type=int, default=defaults.bar_s, help="length of the bar with the planted component"
    )
    parser.add_argument("--planted-r2", type=float, default=defaults.planted_r2)
    parser.add_argument("--planted-horizon-bars", type=int, default=defaults.planted_horizon_bars)
    parser.add_argument("--planted-persistence", type=float, default=defaults.planted_persistence)
    parser.add_argument("--volatility-bar", type=float, default=defaults.volatility_bar)
    parser.add_argument("--correlation", type=float, default=defaults.correlation)
    parser.add_argument("--history-bars", type=int, default=defaults.history_bars)
    parser.add_argument("--trades-per-s", type=float, default=defaults.trades_per_s)
    parser.add_argument("--touch-notional", type=float, default=defaults.touch_notional)
    parser.add_argument("--spread-bps", type=float, default=defaults.spread_bps)
    parser.add_argument("--book-levels", type=int, default=defaults.book_levels)
    parser.add_argument("--fee-rate", type=Decimal, default=defaults.fee_rate)
    parser.add_argument("--cash", type=Decimal, default=Decimal(100_000), help="opening balance in USDT")
    parser.add_argument("--weight-per-minute", type=int, default=Limits().weight_per_minute)
    parser.add_argument("--orders-per-10s", type=int, default=Limits().orders_per_10s)
    parser.add_argument("--data", default="", metavar="DIR", help="replay candles of this folder")
    parser.add_argument("--data-timeframe", default=defaults.data_timeframe)
    parser.add_argument("--data-bar-s", type=int, default=defaults.data_bar_s, help="seconds that one candle lasts")
    parser.add_argument("--key", default=ApiKey().key)
    parser.add_argument("--secret", default=ApiKey().secret)
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when the process that started it is gone")
    parser.add_argument("--allow-withdrawals", action="store_true", help="the key may withdraw")
    return parser


def config_from(args: argparse.Namespace) -> SimConfig:
    """Turn a command line into a configuration."""
    return SimConfig(
        seed=args.seed,
        symbols=args.symbols,
        pad_symbols_to=args.pad_symbols_to,
        bar_s=args.bar_s,
        planted_r2=args.planted_r2,
        planted_horizon_bars=args.planted_horizon_bars,
        planted_persistence=args.planted_persistence,
        volatility_bar=args.volatility_bar,
        correlation=args.correlation,
        history_bars=args.history_bars,
        trades_per_s=args.trades_per_s,
        touch_notional=args.touch_notional,
        spread_bps=args.spread_bps,
        book_levels=args.book_levels,
        fee_rate=args.fee_rate,
        balances=(("USDT", args.cash),),
        limits=Limits(weight_per_minute=args.weight_per_minute, orders_per_10s=args.orders_per_10s),
        data_dir=args.data,
        data_timeframe=args.data_timeframe,
        data_bar_s=args.data_bar_s,
        keys=(ApiKey(key=args.key, secret=args.secret, withdraw=args.allow_withdrawals),),
    )


async def _orphaned() -> None:
    """Return when the parent process is gone."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 (no event tells it portably)
        await asyncio.sleep(_PARENT_POLL_SECONDS)


async def _run(config: SimConfig, port: int, *, exit_with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(serve(config, port))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    if exit_with_parent:
        watch = loop.create_task(_orphaned())
        watch.add_done_callback(lambda _: task.cancel())
        task.add_done_callback(lambda _: watch.cancel())
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    args = _parser().parse_args(arguments)
    try:
        asyncio.run(_run(config_from(args), args.port, exit_with_parent=args.exit_with_parent))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"simulated exchange: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
