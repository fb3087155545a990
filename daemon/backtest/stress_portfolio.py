"""The portfolio to stress: from a file of pairs, or from rows that a daemon or a ledger gave."""

import csv
import io
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from daemon.domain.errors import UsageError

BYTES_MAX: Final = 1_000_000
"""Of a portfolio file."""
PAIRS_MAX: Final = 500
PAIR_NAMES: Final = ("pair", "symbol")
QUANTITY_NAMES: Final = ("quantity", "qty", "amount")
SHAPES: Final = (
    "a table of pair and quantity (or weight); in JSON and TOML also {cash, quantities} or {cash, weights}, "
    "or what `ballast positions --json` prints"
)

Floats = NDArray[float64]
Tree = Mapping[str, Any]


class Given(NamedTuple):
    """What was given: quantities (base units) or weights (shares of equity) by pair, cash in quote currency or None."""

    amounts: dict[str, float]
    weights: bool
    cash: float | None
    prices: dict[str, float]
    """Quote currency, where the source tells them."""


class Portfolio(NamedTuple):
    """What is held: ``values`` (n,) in quote currency, pair by pair, and cash."""

    pairs: tuple[str, ...]
    values: Floats
    cash: float
    quote: str
    origin: str
    """Where it came from, for people."""
    by_candles: tuple[str, ...] = ()
    """Pairs whose price is the newest close of the data folder."""

    @property
    def equity(self) -> float:
        """Return cash and positions, quote currency, > 0."""
        return self.cash + float(self.values.sum())

    @property
    def weights(self) -> Floats:
        """Return (n,) shares of equity."""
        return self.values / self.equity


def read_portfolio(path: Path, *, weights: bool = False) -> Given:
    """Read a portfolio from a ``.json``, ``.toml`` or ``.csv`` file.

    ``weights`` says that numbers without a name (a flat mapping) are weights; a file that names them decides itself.

    Raises
    ------
    UsageError
        The file cannot be read or understood; one line that says where.
    """
    parsers: dict[str, Callable[[str], Any]] = {".json": json.loads, ".toml": tomllib.loads, ".csv": _rows_of}
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        raise UsageError(f"--portfolio {path}: ends in {path.suffix or 'nothing'}; write a .json, .toml or .csv file")
    try:
        raw = path.read_bytes()
        if len(raw) > BYTES_MAX:
            raise UsageError(f"--portfolio {path}: {len(raw)} bytes; a portfolio has at most {BYTES_MAX}")
        tree = parse(raw.decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--portfolio {path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(f"--portfolio {path}: not {path.suffix[1:].upper()}: {why}") from None
    try:
        return given(tree, weights=weights)
    except UsageError as error:
        raise UsageError(f"--portfolio {path}: {error}") from None


def given(tree: Any, *, weights: bool = False) -> Given:
    """Return what a parsed document holds. Raises UsageError."""
    if isinstance(tree, list):
        return _from_rows(tree, None)
    if not isinstance(tree, dict):
        raise UsageError(f"holds no portfolio: write {SHAPES}")
    table = dict(cast("dict[str, Any]", tree))
    cash = table.pop("cash", None)
    known = None if cash is None else _number("cash", cash)
    named = [name for name in ("positions", "quantities", "weights") if name in table]
    if len(named) > 1 or (named and len(table) > 1):
        raise UsageError(f"holds {', '.join(table)} beside each other; expected one of positions, quantities, weights")
    if not named:
        return _checked(table.items(), weights=weights, cash=known, prices={})
    body = table[named[0]]
    if isinstance(body, list):
        return _from_rows(body, known)
    if not isinstance(body, dict):
        raise UsageError(f"{named[0]} is no table: write {SHAPES}")
    return _checked(cast("dict[str, Any]", body).items(), weights=named[0] == "weights", cash=known, prices={})


def held(known: Given) -> tuple[str, ...]:
    """Return the pairs that are held."""
    return tuple(pair for pair, amount in known.amounts.items() if amount > 0.0)


def quote_of(known: Given, otherwise: str) -> str:
    """Return the quote currency of what is held, ``otherwise`` of nothing. Raises UsageError when there are several."""
    quotes = sorted({pair.partition("/")[2] for pair in known.amounts})
    if len(quotes) > 1:
        raise UsageError(f"pairs in {', '.join(quotes)}: all must have one quote currency")
    return quotes[0] if quotes else otherwise


def valued(
    known: Given, prices: Mapping[str, float], *, cash: float | None, equity: float, quote: str, origin: str
) -> Portfolio:
    """Return the portfolio in quote currency; what is given with an amount of 0 is left out.

    Parameters
    ----------
    known
        Quantities or weights.
    prices
        Quote currency per base unit, for pairs whose price the source does not tell.
    cash
        Quote currency; takes the place of the source's own. With weights it is the amount that they leave over, and thereby
        says how large the portfolio is.
    equity
        Size of a portfolio of weights for which no cash was told.
    quote, origin
        The quote currency, and where it came from, for people.

    Raises
    ------
    UsageError
        A pair without a price, weights above 1, or nothing held and no cash.
    """
    money = known.cash if cash is None else cash
    pairs = held(known)
    amounts = np.array([known.amounts[pair] for pair in pairs], dtype=float64)
    by_candles: tuple[str, ...] = ()
    if known.weights:
        values, money = _sized(amounts, money, equity=equity, origin=origin)
    else:
        found = [known.prices.get(pair) or prices.get(pair, math.nan) for pair in pairs]
        unpriced = [pair for pair, one in zip(pairs, found, strict=True) if not one > 0.0]
        if unpriced:
            raise UsageError(
                f"{origin}: no price of {', '.join(unpriced)}: neither given nor in the data folder; add a price column, "
                "or get candles with `ballast data fetch`"
            )
        values, money = amounts * np.array(found), money or 0.0
        by_candles = tuple(pair for pair in pairs if not known.prices.get(pair))
    if not money + float(values.sum()) > 0.0:
        raise UsageError(f"{origin}: holds nothing, neither pairs nor cash; there is nothing to stress")
    return Portfolio(pairs, values, money, quote, origin, by_candles)


def _sized(weights: Floats, cash: float | None, *, equity: float, origin: str) -> tuple[Floats, float]:
    """Return values and cash of a portfolio given by weights."""
    total = float(weights.sum())
    if total > 1.0 + 1e-9:
        raise UsageError(f"{origin}: weights add up to {total:g}; at most 1, the rest is cash")
    rest = max(1.0 - total, 0.0)
    if cash is not None:
        if not (rest > 1e-9 and cash > 0.0):
            raise UsageError(
                f"{origin}: weights add up to {total:g} and cash is {cash:g}: cash is what weights leave over, so it says how "
                "large the portfolio is; leave cash out, or let the weights leave a part"
            )
        equity = cash / rest
    return weights * equity, rest * equity


def _rows_of(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    reader = csv.DictReader(io.StringIO(text), restkey="", skipinitialspace=True, strict=True)
    for at, row in enumerate(reader, start=1):
        if "" in row:
            raise ValueError(f"row {at} has more cells than there are columns")
        rows.append({name.strip().lower(): cell.strip() for name, cell in row.items() if cell and cell.strip()})
    return rows


def _from_rows(rows: Sequence[Any], cash: float | None) -> Given:
    """Return what a list of rows holds, each with a pair and a quantity or a weight, perhaps a price."""
    items: list[tuple[str, Any]] = []
    prices: dict[str, float] = {}
    kinds: set[str] = set()
    for at, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UsageError(f"row {at} is no table of pair and quantity")
        fields = cast("dict[str, Any]", row)
        pair = next((str(fields[name]).strip() for name in PAIR_NAMES if name in fields), "")
        kind = next((name for name in QUANTITY_NAMES if name in fields), "weight" if "weight" in fields else "")
        if not pair or not kind:
            raise UsageError(
                f"row {at} lacks a pair or a quantity: columns are pair and quantity or weight, perhaps price"
            )
        if pair.lower() == "cash":
            cash = _number(f"row {at}: cash", fields[kind])
            continue
        kinds.add("weight" if kind == "weight" else "quantity")
        items.append((pair, fields[kind]))
        if fields.get("price") is not None:
            prices[pair] = _number(f"row {at}: price", fields["price"])
    if len(kinds) > 1:
        raise UsageError("some rows have a quantity and some only a weight; give all of them the same")
    return _checked(items, weights=kinds == {"weight"}, cash=cash, prices=prices)


def _checked(items: Iterable[tuple[str, Any]], *, weights: bool, cash: float | None, prices: dict[str, float]) -> Given:
    amounts: dict[str, float] = {}
    for pair, value in items:
        base, _, quote = pair.partition("/")
        if not (base and quote and pair == pair.upper() and pair.replace("/", "", 1).isalnum()):
            raise UsageError(f"{pair[:40]!r} is no pair: write BTC/USDT (and money as cash)")
        if pair in amounts:
            raise UsageError(f"{pair} stands there twice")
        amounts[pair] = _number(pair, value)
    if len(amounts) > PAIRS_MAX:
        raise UsageError(f"{len(amounts)} pairs; at most {PAIRS_MAX}")
    return Given(amounts, weights, cash, prices)


def _number(what: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0.0 <= number < 1e18:
        raise UsageError(f"{what}: {str(value)[:40]!r} is no amount; spot portfolios hold 0 or more")
    return number
