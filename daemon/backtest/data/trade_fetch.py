"""Trades from an exchange, through ccxt's ``fetch_trades``: in pages, in order, and only what is proven to be whole is called so.

Where the venue numbers its trades without a gap and serves them from an id on (Binance's aggregates), pages follow each other by
id. Elsewhere they follow by time, each page overlapping the one before it; a venue that answers its newest trades whatever
is asked is found out and refused, for what it leaves out nobody could see.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final, NamedTuple

import numpy as np

from daemon.backtest.data.asking import Asker
from daemon.backtest.data.files import iso
from daemon.backtest.data.trade_store import ASCENDING, CONTIGUOUS, UNORDERED, empty
from daemon.backtest.data.trades import Trades, numbered, rows_of
from daemon.domain.errors import ConfigError, Unreachable

PAGE: Final = 1_000
NS_PER_MS: Final = 1_000_000
SETTLED_NS: Final = 10_000_000_000
"""Trades younger than this, by the venue's clock, may still be on their way into its answers: they are left for the next time."""
PROBE_MS: Final = 7 * 86_400_000
"""How far before a page a venue is asked once more, to see whether it goes back at all."""


class Page(NamedTuple):
    """Some trades; with them everything before ``reached_ns`` is here. ``ids``: what is known of the order of their ids."""

    rows: Trades
    reached_ns: int
    ids: str


def by_id(exchange: Any) -> bool:
    """Say whether an exchange's trades are asked for from an id on."""
    return str(exchange.id).startswith("binance")


async def present_ns(asker: Asker, pair: str, ours_ns: int) -> int:
    """Return up to when trades are settled at the venue, ns UTC; our own clock (``ours_ns``) counts where it has none."""
    if asker.exchange.has.get("fetchTime"):

        async def ask() -> int:
            return int(await asker.exchange.fetch_time())

        return await asker.ask("time", pair, ask) * NS_PER_MS - SETTLED_NS
    return ours_ns - 6 * SETTLED_NS


def pages(asker: Asker, pair: str, *, begin_ns: int, end_ns: int, after_id: int | None = None) -> AsyncGenerator[Page]:
    """Return the trades of [begin, end), ns UTC, oldest first.

    Parameters
    ----------
    asker
        Who asks.
    pair
        In ccxt form.
    begin_ns, end_ns
        The stretch; its end lies in the venue's past (`present_ns`).
    after_id
        Id of the trade before ``begin_ns`` where it is known for certain.

    Raises
    ------
    ConfigError
        The exchange does not know the pair, or has no history of trades.
    Unreachable
        It does not answer, after bounded retries, or its answers do not fit together.
    """
    if by_id(asker.exchange):
        return _from_id(asker, pair, begin_ns, end_ns, after_id=after_id)
    return _from_time(asker, pair, begin_ns, end_ns)


async def first_ns(asker: Asker, pair: str) -> int | None:
    """Return when the venue's trades of a pair begin, ns UTC; None where it does not say."""
    if not by_id(asker.exchange):
        return None
    oldest = await _page(asker, pair, limit=1, params={"fromId": 0})
    return int(oldest["ts_ns"][0]) if len(oldest) else None


# ---------------------------------------------------------------------- by id


async def _from_id(
    asker: Asker, pair: str, begin_ns: int, end_ns: int, *, after_id: int | None
) -> AsyncGenerator[Page]:
    at = after_id + 1 if after_id is not None else await _first_id(asker, pair, begin_ns)
    while at is not None:
        rows = await _page(asker, pair, params={"fromId": at})
        if len(rows) and _broken(rows, at):
            rows = await _page(asker, pair, params={"fromId": at})  # the same hole again is the venue's own
        if not len(rows):
            break
        if int(rows["id"][0]) < at:
            raise Unreachable(f"{asker.exchange.id}: {pair}: asked for trades from {at} on, it sent {rows['id'][0]}")
        last_ns = int(rows["ts_ns"].max())
        inside = rows[rows["ts_ns"] < end_ns]
        if last_ns >= end_ns:
            yield Page(inside, end_ns, CONTIGUOUS)
            return
        yield Page(inside, max(begin_ns, last_ns), CONTIGUOUS)
        at = int(rows["id"][-1]) + 1
    yield Page(empty(), end_ns, CONTIGUOUS)  # nothing newer


async def by_ids(asker: Asker, pair: str, first: int, last: int) -> AsyncGenerator[Trades]:
    """Yield the trades with ids in [first, last] that the venue has, in pages."""
    while first <= last:
        rows = await _page(asker, pair, limit=min(PAGE, max(last - first + 1, 2)), params={"fromId": first})
        inside = rows[(rows["id"] >= first) & (rows["id"] <= last)]
        if not len(inside):
            return
        yield inside
        first = int(rows["id"][-1]) + 1


def _broken(rows: Trades, at: int) -> bool:
    return int(rows["id"][0]) != at or bool((np.diff(rows["id"]) != 1).any())


async def _first_id(asker: Asker, pair: str, begin_ns: int) -> int | None:
    """Return the id of the first trade at or after a time, by halving the ids; None when there is none."""
    oldest = await _page(asker, pair, limit=1, params={"fromId": 0})
    newest = await _page(asker, pair, limit=1)
    if not len(oldest) or not len(newest) or int(newest["ts_ns"][-1]) < begin_ns:
        return None
    low, high = int(oldest["id"][0]), int(newest["id"][-1])
    if int(oldest["ts_ns"][0]) >= begin_ns:
        return low
    while high - low >= PAGE:
        middle = (low + high) // 2
        found = await _page(asker, pair, limit=1, params={"fromId": middle})
        if not len(found) or int(found["ts_ns"][0]) >= begin_ns:
            high = middle
        else:
            low = max(int(found["id"][0]), middle)
    rows = await _page(asker, pair, params={"fromId": low})
    later = rows["id"][rows["ts_ns"] >= begin_ns]
    return int(later[0]) if len(later) else high


# ---------------------------------------------------------------------- by time


async def _from_time(asker: Asker, pair: str, begin_ns: int, end_ns: int) -> AsyncGenerator[Page]:
    newest = await _page(asker, pair)
    if not len(newest) or int(newest["ts_ns"][-1]) < begin_ns:
        yield Page(empty(), end_ns, ASCENDING)
        return
    newest_ns = int(newest["ts_ns"][-1])
    since_ms, last = begin_ns // NS_PER_MS - 1, None
    known: set[int] = set()
    while True:
        rows = await _page(asker, pair, since_ms=since_ms)
        if not len(rows):
            raise _no_history(asker, pair, newest)
        if last is None:
            if int(rows["ts_ns"].max()) >= newest_ns and not await _goes_back(asker, pair, since_ms, rows):
                raise _no_history(asker, pair, rows)
        elif last not in rows["id"]:
            raise Unreachable(
                f"{asker.exchange.id}: {pair}: the page from {iso(since_ms)} on does not continue the one before it"
            )
        fresh = rows[~np.isin(rows["id"], list(known))]
        inside = fresh[(fresh["ts_ns"] >= begin_ns) & (fresh["ts_ns"] < end_ns)]
        ids = ASCENDING if bool((np.diff(rows["id"]) > 0).all()) else UNORDERED
        last_ns = int(rows["ts_ns"].max())
        if last_ns >= end_ns or last_ns > newest_ns or int(newest["id"][-1]) in rows["id"]:
            yield Page(inside, end_ns, ids)
            return
        if not len(fresh):
            raise Unreachable(f"{asker.exchange.id}: {pair}: it does not get past {iso(last_ns // NS_PER_MS)}")
        yield Page(inside, max(begin_ns, last_ns), ids)
        since_ms, last, known = last_ns // NS_PER_MS - 1, int(rows["id"][-1]), {int(one) for one in rows["id"]}


async def _goes_back(asker: Asker, pair: str, since_ms: int, rows: Trades) -> bool:
    """Say whether a page that ends with the newest trade begins where it was asked to: asked earlier, it shows older ones."""
    if int(rows["ts_ns"][0]) <= since_ms * NS_PER_MS:
        return True
    earlier = await _page(asker, pair, since_ms=max(since_ms - PROBE_MS, 0))
    return bool(len(earlier)) and int(earlier["ts_ns"][0]) < since_ms * NS_PER_MS


def _no_history(asker: Asker, pair: str, rows: Trades) -> ConfigError:
    oldest = iso(int(rows["ts_ns"][0]) // NS_PER_MS)
    return ConfigError(
        f"{asker.exchange.id}: {pair}: it gives its newest trades only, from {oldest} on; `ballast data import` takes dumps"
    )


# ---------------------------------------------------------------------- one page


async def _page(
    asker: Asker, pair: str, *, since_ms: int | None = None, limit: int = PAGE, params: dict[str, Any] | None = None
) -> Trades:
    """Return one answer as rows, each id once, in the order of ids, or of time where ids are no numbers."""

    async def ask() -> Trades:
        found = await asker.exchange.fetch_trades(pair, since_ms, limit, params or {})
        if not isinstance(found, list):
            raise TypeError("no list of trades")
        return _rows(found)

    return await asker.ask("trades", pair, ask)


def _rows(found: list[Any]) -> Trades:
    """Return ccxt's trades as rows. Raises what parsing raises where one has no id, time, price or size."""
    if not found:
        return empty()
    ids, numbers = numbered([one["id"] for one in found])
    times = np.array([int(one["timestamp"]) for one in found], dtype=np.int64) * NS_PER_MS
    prices = np.array([float(one["price"]) for one in found])
    amounts = np.array([float(one["amount"]) for one in found])
    sells = np.array([one["side"] == "sell" for one in found], dtype=np.bool_)
    rows = rows_of(ids, times, prices, amounts, sells)
    _, first = np.unique(ids, return_index=True)
    rows = rows[np.sort(first)]
    by_number = rows[np.argsort(rows["id"], kind="stable")]
    if numbers and bool((np.diff(by_number["ts_ns"]) >= -1_000 * NS_PER_MS).all()):
        return by_number
    return rows[np.argsort(rows["ts_ns"], kind="stable")]
