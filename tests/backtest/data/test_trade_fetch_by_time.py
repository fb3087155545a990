"""Trades of venues that page by time: ccxt's own Kraken against a server on loopback that answers as Kraken does."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ccxt.async_support as ccxt
import numpy as np
import pytest
from aiohttp import web

from daemon.backtest.data import asking, trade_folder
from daemon.backtest.data.trade_reader import chunks, facts_of_set
from daemon.backtest.data.trades import TradeSet, folder_of
from daemon.domain.errors import ConfigError, Unreachable

S = 1_000_000_000
PAIR = "BTC/USD"
BEGIN_S = 1_702_080_000
NOW_S = BEGIN_S + 90_000
PAIR_INFO = {
    "altname": "XBTUSD",
    "wsname": "XBT/USD",
    "aclass_base": "currency",
    "base": "XXBT",
    "aclass_quote": "currency",
    "quote": "ZUSD",
    "lot": "unit",
    "cost_decimals": 5,
    "pair_decimals": 1,
    "lot_decimals": 8,
    "lot_multiplier": 1,
    "leverage_buy": [],
    "leverage_sell": [],
    "fees": [[0, 0.4]],
    "fees_maker": [[0, 0.25]],
    "fee_volume_currency": "ZUSD",
    "margin_call": 80,
    "margin_stop": 40,
    "ordermin": "0.0001",
    "costmin": "0.5",
    "tick_size": "0.1",
    "status": "online",
}
ASSETS = {
    name: {"aclass": "currency", "altname": alt, "decimals": 8, "display_decimals": 4, "status": "enabled"}
    for name, alt in (("XXBT", "XBT"), ("ZUSD", "USD"))
}


class Kraken:
    """The public part of Kraken's REST API that a fetch of trades needs, and ways in which a venue may be otherwise."""

    def __init__(self, count: int) -> None:
        """Make so many trades, some of them at the same moment."""
        rng = np.random.default_rng(3)
        moments = np.sort(np.round(BEGIN_S + rng.random(count) * 86_000.0, 3))
        moments[50:70] = moments[50]
        self.trades: list[list[Any]] = [
            [f"{40_000 + at % 97}.1", f"0.{at % 89 + 1:08d}", moments[at].item(), "bs"[at % 2], "l", "", 7_000 + 3 * at]
            for at in range(count)
        ]
        self.only_newest = False
        self.overlooks = 0
        self.asked = 0

    def page(self, since: float, count: int) -> list[list[Any]]:
        """Return the oldest trades after a time, at most so many."""
        self.asked += 1
        if self.only_newest or since <= 0.0:
            return self.trades[-count:]
        later = [one for one in self.trades if one[2] > since]
        if self.overlooks and self.asked > self.overlooks:
            later = later[7:]
        return later[:count]

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        name, query = request.match_info["name"], request.query
        if name == "Trades":
            rows = self.page(float(query.get("since", 0)), int(query.get("count", 1_000)))
            last = str(int(rows[-1][2] * 1e9)) if rows else "0"
            result: Any = {"XXBTZUSD": rows, "last": last}
        else:
            result = {
                "Time": {"unixtime": NOW_S, "rfc1123": ""},
                "AssetPairs": {"XXBTZUSD": PAIR_INFO},
                "Assets": ASSETS,
            }[name]
        return web.json_response({"error": [], "result": result})


@pytest.fixture
async def kraken() -> AsyncIterator[tuple[Kraken, asking.Asker]]:
    """Kraken on loopback, and ccxt's Kraken pointed at it."""
    one = Kraken(5_000)
    app = web.Application()
    app.router.add_route("*", "/0/public/{name}", one.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    exchange: Any = ccxt.kraken({"enableRateLimit": False, "urls": {"api": {"public": url, "private": url}}})
    yield one, asking.Asker(exchange)
    await exchange.close()
    await runner.cleanup()


async def fetch(asker: asking.Asker, folder: Path, since_s: int, until_s: int) -> trade_folder.FetchedTrades:
    """Fetch the trades of a stretch."""

    def nobody(_done: int, _whole: int) -> None:
        """Watch no progress."""

    return await trade_folder.fetch_trades(
        asker, folder, pair=PAIR, since_ns=since_s * S, until_ns=until_s * S, progress=nobody
    )


def held(folder: Path) -> list[list[Any]]:
    """Return what the folder has, as Kraken wrote it."""
    rows = np.concatenate(list(chunks(TradeSet(folder_of(folder, PAIR), PAIR))))
    return [[int(row["id"]), round(int(row["ts_ns"]) / 1e9, 3), float(row["price"]), bool(row["sell"])] for row in rows]


def told(trades: list[list[Any]]) -> list[list[Any]]:
    """Return the venue's trades in the same form."""
    return [[one[6], one[2], float(one[0]), one[3] == "s"] for one in trades]


async def test_pages_by_time_come_whole_and_each_trade_once(
    kraken: tuple[Kraken, asking.Asker], tmp_path: Path
) -> None:
    """The middle, then both sides: twenty trades of one moment, ids that skip, none twice and none missing."""
    venue, asker = kraken
    await fetch(asker, tmp_path, BEGIN_S + 20_000, BEGIN_S + 50_000)
    done = await fetch(asker, tmp_path, BEGIN_S, NOW_S)
    again = await fetch(asker, tmp_path, BEGIN_S, BEGIN_S + 86_400)

    assert held(tmp_path) == told(venue.trades)
    assert (done.total, again.rows) == (5_000, 0)
    facts = facts_of_set(TradeSet(folder_of(tmp_path, PAIR), PAIR))
    assert facts.ids == "ascending"
    assert facts.covered == ((BEGIN_S * S, (NOW_S - 10) * S),)


async def test_a_venue_that_gives_its_newest_trades_only_is_found_out(
    kraken: tuple[Kraken, asking.Asker], tmp_path: Path
) -> None:
    """Whatever it is asked: nothing is kept, one line says why."""
    venue, asker = kraken
    venue.only_newest = True
    with pytest.raises(ConfigError, match="kraken: BTC/USD: it gives its newest trades only, from 2023-12-09"):
        await fetch(asker, tmp_path, BEGIN_S, NOW_S)
    assert not list(tmp_path.rglob("*.parquet"))


async def test_a_stretch_within_the_newest_page_is_whole_all_the_same(
    kraken: tuple[Kraken, asking.Asker], tmp_path: Path
) -> None:
    """A page that shows older trades too proves it."""
    venue, asker = kraken
    wanted = [one for one in venue.trades if one[2] >= BEGIN_S + 80_000]
    await fetch(asker, tmp_path, BEGIN_S + 80_000, NOW_S)
    assert held(tmp_path) == told(wanted)


async def test_pages_that_do_not_overlap_are_not_believed(kraken: tuple[Kraken, asking.Asker], tmp_path: Path) -> None:
    """Trades lost between two pages: the fetch ends, what came before is kept, and no more is called whole."""
    venue, asker = kraken
    venue.overlooks = 3
    with pytest.raises(Unreachable, match="does not continue the one before it"):
        await fetch(asker, tmp_path, BEGIN_S, NOW_S)
    ((begin, reached),) = facts_of_set(TradeSet(folder_of(tmp_path, PAIR), PAIR)).covered
    kept = held(tmp_path)
    assert begin == BEGIN_S * S
    assert kept == told(venue.trades[: len(kept)])
    assert reached == round(kept[-1][1] * 1e3) * 1_000_000

    venue.overlooks = 0
    await fetch(asker, tmp_path, BEGIN_S, NOW_S)
    assert held(tmp_path) == told(venue.trades)


async def test_more_trades_in_a_moment_than_a_page_are_told(
    kraken: tuple[Kraken, asking.Asker], tmp_path: Path
) -> None:
    """Paging by time cannot get past them: a line, not a loop."""
    venue, asker = kraken
    for one in venue.trades[1_000:2_500]:
        one[2] = venue.trades[1_000][2]
    with pytest.raises(Unreachable, match="does not get past"):
        await fetch(asker, tmp_path, BEGIN_S, NOW_S)
    assert held(tmp_path)[:1_000] == told(venue.trades[:1_000])
