"""Circulating supply per asset, for the market-cap benchmark: ``supply.csv`` with the columns ``date,asset,supply``.

``date`` is a day or time (UTC), ``asset`` the base currency (BTC), ``supply`` units in circulation from then on. CoinGecko's
public API (``/coins/markets``) tells today's supply only: a history grows by one row per asset and day fetched, or is given.
"""

import csv
import io
import math
import random
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec

from daemon.backtest.data.files import replacing
from daemon.domain.errors import ConfigError, Unreachable

FILE: Final = "supply.csv"
HEADER: Final = ("date", "asset", "supply")
COINGECKO: Final = "https://api.coingecko.com/api/v3"
SYMBOLS_MAX: Final = 25
"""Symbols asked for at once; the venue allows 50 where every coin of a symbol is wanted."""
PAGE_ROWS: Final = 250
"""Coins of one page (the venue's maximum)."""
PAGES_MAX: Final = 8
ATTEMPTS_MAX: Final = 5
RETRY_S: Final = 1.0
PATIENCE_S: Final = 90.0
"""The longest pause asked for that is waited for; the public limit is counted by the minute."""
TIMEOUT_S: Final = 15.0
BYTES_MAX: Final = 20_000_000
LINES_MAX: Final = 10_000_000
OK, SERVER_ERROR = 200, 500
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

Supply = dict[str, list[tuple[int, float]]]
"""Per asset (time ns UTC from which it holds, units in circulation), ascending."""


class Coin(msgspec.Struct, frozen=True):
    """What is used of one row of ``/coins/markets``."""

    id: str
    symbol: str
    name: str = ""
    market_cap: float | None = None
    circulating_supply: float | None = None


class FetchedSupply(msgspec.Struct, frozen=True):
    """One asset: the coin taken for it and its supply, the ids of others of the same symbol, and whether the row is new."""

    asset: str
    coin: str
    name: str
    supply: float
    others: tuple[str, ...]
    new: bool


def read_supply(path: Path) -> Supply:
    """Return a file of supplies.

    Raises
    ------
    ConfigError
        It cannot be read, has other columns, or a line is wrong: which, and why.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `ballast data fetch --supply` makes one") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not lines or tuple(cell.strip().lower() for cell in lines[0]) != HEADER:
        raise ConfigError(f"{path}: the first line must be {','.join(HEADER)}")
    found: dict[str, dict[int, float]] = {}
    for number, cells in enumerate(lines[1:LINES_MAX], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        at, asset, supply = _row(cells, f"{path}: line {number}")
        if found.setdefault(asset, {}).setdefault(at, supply) != supply:
            raise ConfigError(f"{path}: line {number}: {asset} has another supply of {cells[0].strip()} already")
    return {asset: sorted(rows.items()) for asset, rows in sorted(found.items())}


def _row(cells: Sequence[str], where: str) -> tuple[int, str, float]:
    if len(cells) != len(HEADER):
        raise ConfigError(f"{where}: {len(cells)} cells, not {len(HEADER)}: {','.join(cells)!r}")
    date, asset, text = (cell.strip() for cell in cells)
    try:
        moment = datetime.fromisoformat(date)
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        raise ConfigError(f"{where}: {date!r} is no day: write 2024-05-11") from None
    try:
        supply = float(text)
    except ValueError:
        supply = math.nan
    if not math.isfinite(supply) or supply <= 0.0:
        raise ConfigError(f"{where}: supply {text!r} is no positive number")
    if not asset:
        raise ConfigError(f"{where}: no asset")
    return round(at) * 1_000_000_000, asset.upper(), supply


def add_supply(path: Path, rows: Iterable[tuple[str, str, float]]) -> list[bool]:
    """Append rows (day, asset, supply) to a file, atomically; one row per asset and day: what is here stays.

    Returns
    -------
    Which rows were new. Raises ConfigError when the file is broken or cannot be written.
    """
    known = read_supply(path) if path.is_file() else {}
    text = path.read_text(encoding="utf-8-sig") if known else ",".join(HEADER) + "\n"
    out = io.StringIO()
    out.write(text if text.endswith("\n") else text + "\n")
    writer = csv.writer(out, lineterminator="\n")
    new: list[bool] = []
    for day, asset, supply in rows:
        at, name, value = _row((day, asset, repr(supply)), f"{path}: {asset}")
        days = {moment // 86_400_000_000_000 for moment, _ in known.get(name, [])}
        new.append(at // 86_400_000_000_000 not in days)
        if new[-1]:
            writer.writerow((day, name, f"{value:.15g}"))
            known.setdefault(name, []).append((at, value))
    if any(new):
        with replacing(path) as temporary:
            temporary.write_text(out.getvalue(), encoding="utf-8")
    return new


def import_supply(source: Path, path: Path) -> int:
    """Take over the rows of another file of supplies; return how many were new. Raises ConfigError."""
    rows = [
        (datetime.fromtimestamp(at / 1e9, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00"), asset, supply)
        for asset, known in read_supply(source).items()
        for at, supply in known
    ]
    return sum(add_supply(path, sorted(rows)))


def is_supply(path: Path) -> bool:
    """Say whether a file begins as a file of supplies does."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.readline(200).strip().lower().replace(" ", "") == ",".join(HEADER)
    except (OSError, UnicodeDecodeError):
        return False


# ---------------------------------------------------------------------- CoinGecko


def fetch_supply(
    path: Path, assets: Sequence[str], *, today: str, base_url: str = COINGECKO
) -> tuple[list[FetchedSupply], list[str]]:
    """Ask CoinGecko for the circulating supply of assets and keep it; several coins of one symbol: the largest by market cap.

    Parameters
    ----------
    path
        The file to append to.
    assets
        Base currencies.
    today
        The day of the rows, 2024-05-11.
    base_url
        Where the API lies.

    Returns
    -------
    What was found, and the assets it knows no circulating supply of.

    Raises
    ------
    Unreachable
        It does not answer, after bounded retries.
    ConfigError
        The address is none, or the file cannot be written.
    """
    parts = urlsplit(base_url)
    local = parts.hostname in LOOPBACK
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ConfigError(f"--supply-url {base_url!r}: must begin with https:// (http:// on loopback only)")
    wanted = list(dict.fromkeys(asset.upper() for asset in assets))
    coins: list[Coin] = []
    with httpx.Client(timeout=TIMEOUT_S, trust_env=not local) as client:
        for at in range(0, len(wanted), SYMBOLS_MAX):
            coins += _coins(client, base_url.rstrip("/"), wanted[at : at + SYMBOLS_MAX])
    chosen: dict[str, list[Coin]] = {}
    for coin in sorted(coins, key=lambda one: (-(one.market_cap or 0.0), one.id)):
        if coin.circulating_supply is not None and 0.0 < coin.circulating_supply < math.inf:
            same = chosen.setdefault(coin.symbol.upper(), [])
            if coin.id not in [one.id for one in same]:
                same.append(coin)
    found = [asset for asset in wanted if asset in chosen]
    new = add_supply(path, [(today, asset, chosen[asset][0].circulating_supply or 0.0) for asset in found])
    rows = [_fetched(asset, chosen[asset], new=fresh) for asset, fresh in zip(found, new, strict=True)]
    return rows, [asset for asset in wanted if asset not in chosen]


def _fetched(asset: str, coins: Sequence[Coin], *, new: bool) -> FetchedSupply:
    first = coins[0]
    others = tuple(one.id for one in coins[1:])
    return FetchedSupply(asset, first.id, first.name, first.circulating_supply or 0.0, others, new)


def _coins(client: httpx.Client, base_url: str, symbols: Sequence[str]) -> list[Coin]:
    """Return every coin of these symbols, page by page, largest market cap first."""
    found: list[Coin] = []
    for page in range(1, PAGES_MAX + 1):
        query: dict[str, str | int] = {
            "vs_currency": "usd",
            "symbols": ",".join(symbols).lower(),
            "include_tokens": "all",
            "order": "market_cap_desc",
            "per_page": PAGE_ROWS,
            "page": page,
        }
        rows = _ask(client, f"{base_url}/coins/markets", query)
        found += rows
        if len(rows) < PAGE_ROWS:
            break
    return found


def _ask(client: httpx.Client, url: str, query: dict[str, str | int]) -> list[Coin]:
    wait_s, said = RETRY_S, ""
    for attempt in range(ATTEMPTS_MAX):
        if attempt:
            time.sleep(wait_s)
            wait_s = min(2.0 * RETRY_S * 2.0**attempt * random.uniform(0.5, 1.0), PATIENCE_S)
        try:
            answer = client.get(url, params=query)
            if answer.status_code == OK and len(answer.content) <= BYTES_MAX:
                return msgspec.json.decode(answer.content, type=list[Coin], strict=False)
        except httpx.HTTPError as error:
            said = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
            continue
        except msgspec.MsgspecError as error:
            said = f"a broken answer: {str(error)[:160]}"
            continue
        said = f"status {answer.status_code}"
        if answer.status_code not in {408, 418, 425, 429} and answer.status_code < SERVER_ERROR:
            break
        asked = answer.headers.get("retry-after", "")
        pause_s = float(asked) if asked.isascii() and asked.isdigit() else 0.0
        if pause_s > PATIENCE_S:
            raise Unreachable(f"{url}: it wants quiet for {pause_s:g} s; run it again then")
        wait_s = max(wait_s, pause_s)
    raise Unreachable(f"{url}: no supplies: {said}")
