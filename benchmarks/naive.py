"""The naive stack: pandas features, a torch call per asset, cvxpy built anew, ccxt orders one after the other.

Run as ``python -m benchmarks.naive BASE KEY SECRET ROUNDS TAG SYMBOL…``; prints one JSON list, a round each: when it began, how long
features, forecasts and the solve took (ms), and when the last call to create_order returned. Limits are lifted as for us:
no ccxt limiter, one thread for torch (a call per asset is faster so).
"""

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np

LOOKBACK = 60
WARM_UP = 2
NOTIONAL = 300.0


async def rounds(base: str, keys: tuple[str, str], count: int, tag: str, symbols: list[str]) -> list[dict[str, Any]]:
    import pandas as pd
    import torch

    from benchmarks.forecast import naive_features, sample_bars
    from benchmarks.optimise import PARAMS, rebuilt
    from daemon.edge.rest import make_exchange
    from strategies.artifact import Hyper
    from strategies.lstm import LstmNet

    torch.set_num_threads(1)
    net = LstmNet(Hyper()).eval()
    n = len(symbols)
    columns = ["open", "high", "low", "close", "volume"]
    frames = [pd.DataFrame(bars, columns=columns) for bars in sample_bars(n)]
    exchange = make_exchange("binance", rest_url=f"http://{base}", api_key=keys[0], api_secret=keys[1], limited=False)
    seen = []
    try:
        await exchange.load_markets()
        prices = {one: (await exchange.fetch_ticker(one))["last"] for one in symbols}
        w0 = np.full(n, 0.4 / n)
        for number in range(count + WARM_UP):
            began = time.time_ns()
            features = [naive_features(frame.iloc[-(LOOKBACK + 1) :]) for frame in frames]
            featured = time.time_ns()
            mean = np.empty(n)
            with torch.inference_mode():
                for i, one in enumerate(features):
                    window = torch.tensor(one.to_numpy(dtype=np.float32)[None])
                    mean[i] = float(net(window)[0])
            forecast = time.time_ns()
            returns = pd.DataFrame({i: frame["close"].pct_change() for i, frame in enumerate(frames)}).dropna()
            S = returns.cov().to_numpy() + 1e-8 * np.eye(n)
            rebuilt(mean * 1e-3, S, w0, np.full(n, PARAMS.max_weight))
            solved = time.time_ns()
            side = "sell" if number % 2 else "buy"
            for i, symbol in enumerate(symbols):
                price = exchange.price_to_precision(symbol, prices[symbol] * (1.002 if side == "buy" else 0.998))
                share = 1.0 if side == "buy" else 0.98  # the fee was taken in base
                qty = exchange.amount_to_precision(symbol, share * NOTIONAL / prices[symbol])
                params = {"clientOrderId": f"{tag}-{number}-{i}", "timeInForce": "IOC"}
                await exchange.create_order(symbol, "limit", side, qty, price, params)
            seen.append(
                {
                    "began_ns": began,
                    "features": (featured - began) / 1e6,
                    "forecast": (forecast - featured) / 1e6,
                    "solve": (solved - forecast) / 1e6,
                    "orders": (time.time_ns() - solved) / 1e6,
                    "ids": [f"{tag}-{number}-{i}" for i in range(n)],
                }
            )
            await asyncio.sleep(0.2)
    finally:
        await exchange.close()
    return seen[WARM_UP:]


def main(argv: list[str]) -> int:
    base, key, secret, count, tag, *symbols = argv
    print(json.dumps(asyncio.run(rounds(base, (key, secret), int(count), tag, symbols))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
