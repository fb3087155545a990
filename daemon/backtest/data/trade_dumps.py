"""Trades from elsewhere: Binance's dumps (``BTCUSDT-aggTrades-2024-05-11.zip`` or ``.csv``, days or months), freqtrade's files.

A dump's columns are id, price, size, first and last trade id, time (ms, since 2025 us), whether the buyer was the maker, and best
match (spot only); a line of names may come first.
"""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyarrow import ArrowException, csv
from pyarrow import types as kinds

from daemon.backtest.data.trade_reader import chunks, facts_of_set
from daemon.backtest.data.trade_store import CONTIGUOUS, UNORDERED, Stored, by_day, store, writing
from daemon.backtest.data.trades import DAY_NS, Span, Trades, TradeSet, folder_of, rows_of, sets_in
from daemon.domain.errors import ConfigError

DUMP: Final = re.compile(r"^([A-Z0-9]+)-aggTrades-([0-9]{4}-[0-9]{2}(?:-[0-9]{2})?)\.(zip|csv)$")
QUOTES: Final = (
    "USDT", "FDUSD", "USDC", "BUSD", "TUSD", "USDP", "USD1", "USDS", "DAI", "PAX", "BTC", "ETH", "BNB", "XRP", "TRX", "DOGE",
    "EUR", "GBP", "AUD", "BRL", "TRY", "RUB", "UAH", "NGN", "ZAR", "IDRT", "BIDR", "BKRW", "BVND", "JPY", "PLN", "RON",
    "ARS", "MXN", "COP", "CZK", "USD",
)  # fmt: skip
"""What Binance's pairs are quoted in, to tell base from quote in BTCUSDT."""
NAMES: Final = ("id", "price", "amount", "first", "last", "time", "maker", "best")
COLUMN_TYPES: Final = {"id": "int64", "price": "float64", "amount": "float64", "time": "int64", "maker": "bool"}
MS_MAX: Final = 10**14
US_MAX: Final = 10**17
"""Times below are ms (to the year 5138), us, and beyond ns."""
BLOCK_BYTES: Final = 8_000_000


class ImportedTrades(msgspec.Struct, frozen=True):
    """What was taken over of one file: new trades, and how many differed from what was here and stayed out."""

    file: str
    pair: str
    rows: int
    differing: int


def dumps_in(source: Path) -> list[Path]:
    """Return a folder's dumps by name, or the one that ``source`` is."""
    if source.is_file():
        return [source] if DUMP.fullmatch(source.name) else []
    return sorted(one for one in source.iterdir() if DUMP.fullmatch(one.name) and one.is_file())


def import_dump(source: Path, folder: Path) -> ImportedTrades:
    """Take over one dump; days and months that its name says, and whose ids are whole, then count as fetched.

    Raises
    ------
    ConfigError
        Its name tells no pair, its checksum or its contents are broken, or the folder cannot be written.
    """
    match = DUMP.fullmatch(source.name)
    if match is None:
        raise ConfigError(f"{source}: no dump of trades: its name looks like BTCUSDT-aggTrades-2024-05-11.zip")
    pair = pair_of(match[1], source)
    begin, end = _named_span(match[2], source)
    _check_sum(source)
    path = folder_of(folder, pair)
    new = differing = 0
    with writing(path):
        for day_ns, rows in _days(_dump_rows(source)):
            reach = (max(begin, day_ns), min(end, day_ns + DAY_NS))
            done = store(path, rows, whole_spans(rows, reach), CONTIGUOUS)
            new, differing = new + done.new, differing + done.differing
    return ImportedTrades(source.name, pair, new, differing)


def import_sets(source: Path, folder: Path) -> Iterator[ImportedTrades]:
    """Take over the trades of another data folder, freqtrade's or ours."""
    for one in sets_in(source):
        path = folder_of(folder, one.pair)
        if path.resolve() == one.path.resolve():
            continue
        with writing(path):
            done = _import_set(one, path)
        yield ImportedTrades(one.path.name, one.pair, done.new, done.differing)


def _import_set(one: TradeSet, path: Path) -> Stored:
    facts = facts_of_set(one)
    new = differing = 0
    last: tuple[int, int] | None = None
    for day_ns, rows in _days(chunks(one)):
        spans: list[Span] = []
        if one.ours:
            spans = [(max(first, day_ns), min(end, day_ns + DAY_NS)) for first, end in facts.covered]
        elif facts.ids != UNORDERED:
            # Ids that follow each other prove that nothing is missing; where they do not, a fetch will ask again.
            joined = last is not None and int(rows["id"][0]) == last[0] + 1
            begin = last[1] if joined and last is not None else int(rows["ts_ns"][0])
            spans = whole_spans(rows, (begin, int(rows["ts_ns"].max())))
            last = (int(rows["id"][-1]), int(rows["ts_ns"].max()))
        done = store(path, rows, [span for span in spans if span[0] < span[1]], facts.ids)
        new, differing = new + done.new, differing + done.differing
    return Stored(new, differing)


def whole_spans(rows: Trades, reach: Span) -> list[Span]:
    """Return the parts of ``reach`` in which no id is missing: cut where ids of these rows, all of that time, skip."""
    ordered = rows[np.argsort(rows["id"], kind="stable")]
    holes = np.flatnonzero(np.diff(ordered["id"]) > 1)
    begins = [reach[0], *(int(ordered["ts_ns"][at + 1]) + 1 for at in holes)]
    ends = [*(int(ordered["ts_ns"][at]) for at in holes), reach[1]]
    return [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]


def _days(parts: Iterator[Trades]) -> Iterator[tuple[int, Trades]]:
    """Yield whole days of chunks that come in order of time: (midnight, ns; rows)."""
    held: list[Trades] = []
    day_ns = -1
    for part in parts:
        for at, rows in by_day(part):
            if at != day_ns and held:
                yield day_ns, np.concatenate(held)
                held = []
            day_ns = at
            held.append(rows)
    if held:
        yield day_ns, np.concatenate(held)


def pair_of(symbol: str, source: Path) -> str:
    """Return BTC/USDT for BTCUSDT. Raises ConfigError where no known quote ends it."""
    for quote in sorted(QUOTES, key=len, reverse=True):
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return f"{symbol[: -len(quote)]}/{quote}"
    raise ConfigError(f"{source}: {symbol} ends with no quote currency that is known: {' '.join(QUOTES[:6])} …")


def _named_span(text: str, source: Path) -> Span:
    """Return the day or month of a dump's name, ns UTC."""
    try:
        first = np.datetime64(text)
    except ValueError:
        raise ConfigError(f"{source}: {text} is no day and no month") from None
    return tuple(int(one.astype("datetime64[ns]").astype(np.int64)) for one in (first, first + 1))  # type: ignore[return-value]


def _check_sum(source: Path) -> None:
    """Compare a dump with the checksum beside it, where there is one, and a zip's parts with theirs."""
    beside = source.with_name(source.name + ".CHECKSUM")
    try:
        if beside.is_file():
            said = beside.read_text(encoding="ascii").split()
            with source.open("rb") as file:
                is_same = bool(said) and said[0].lower() == hashlib.file_digest(file, "sha256").hexdigest()
            if not is_same:
                raise ConfigError(f"{source}: not what {beside.name} says; fetch it again")
        if source.suffix == ".zip":
            with zipfile.ZipFile(source) as archive:
                if (bad := archive.testzip()) is not None:
                    raise ConfigError(f"{source}: {bad} in it is damaged; fetch it again")
    except (OSError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read: {error}") from error


@contextmanager
def _text_of(source: Path) -> Generator[IO[bytes]]:
    if source.suffix != ".zip":
        with source.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(source) as archive:
        names = [name for name in archive.namelist() if name.endswith(".csv")]
        if len(names) != 1:
            raise ConfigError(f"{source}: it holds {len(names)} csv files, not one")
        with archive.open(names[0]) as file:
            yield file


def _dump_rows(source: Path) -> Iterator[Trades]:
    """Yield a dump's rows in blocks."""
    try:
        with _text_of(source) as file:
            first = file.readline(1_000).decode("ascii").strip().split(",")
        if len(first) not in {len(NAMES), len(NAMES) - 1}:
            raise ConfigError(f"{source}: {len(first)} columns, not {len(NAMES)}")
        names = NAMES[: len(first)]
        options = {
            "read_options": csv.ReadOptions(
                column_names=list(names), skip_rows=0 if first[0].isdigit() else 1, block_size=BLOCK_BYTES
            ),
            "convert_options": csv.ConvertOptions(
                column_types=COLUMN_TYPES, include_columns=list(COLUMN_TYPES), strings_can_be_null=False
            ),
        }
        with _text_of(source) as file, csv.open_csv(file, **options) as reader:
            for batch in reader:
                yield _columns(batch)
    except (ArrowException, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{source}: no trades: {str(error).partition(chr(10))[0][:200]}") from error


def _columns(batch: Any) -> Trades:
    """Return one block as rows. Raises ValueError where a cell is empty."""
    for name in COLUMN_TYPES:
        if batch.column(name).null_count or kinds.is_null(batch.column(name).type):
            raise ValueError(f"a row has no {name}")
    ids, price, amount, time, maker = (
        batch.column(name).to_numpy(zero_copy_only=False) for name in ("id", "price", "amount", "time", "maker")
    )
    return rows_of(ids, _to_ns(time), price, amount, maker)


def _to_ns(time: NDArray[np.int64]) -> NDArray[np.int64]:
    scale = np.where(time < MS_MAX, 1_000_000, np.where(time < US_MAX, 1_000, 1))
    return np.asarray(time * scale, dtype=np.int64)


def nothing_in(source: Path, found: Sequence[object]) -> None:
    """Raise ConfigError when nothing was found to take over."""
    if not found:
        raise ConfigError(
            f"{source}: nothing to take over: no files named like BTC_USDT-1h.feather, BTC_USDT-trades.feather, "
            "BTCUSDT-aggTrades-2024-05-11.zip or supply.csv"
        )
