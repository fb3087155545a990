"""Supplies: CoinGecko's answers as it writes them, from a server on loopback; files with clear errors."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from daemon.backtest.data import supply
from daemon.backtest.data.supply import add_supply, fetch_supply, import_supply, is_supply, read_supply
from daemon.domain.errors import ConfigError, Unreachable

DAY_NS = 86_400_000_000_000


def coin(name: str, symbol: str, cap: float | None, circulating: float | None) -> dict[str, Any]:
    """Return a row of ``/coins/markets`` with all the fields that CoinGecko sends."""
    return {
        "id": name,
        "symbol": symbol,
        "name": name.title(),
        "image": f"https://assets.example/{name}.png",
        "current_price": 1.5,
        "market_cap": cap,
        "market_cap_rank": None,
        "fully_diluted_valuation": None,
        "total_volume": 12.5,
        "high_24h": 2,
        "low_24h": 1,
        "price_change_24h": -0.1,
        "circulating_supply": circulating,
        "total_supply": 21_000_000,
        "max_supply": None,
        "ath": 3,
        "ath_date": "2021-11-10T14:24:11.849Z",
        "roi": None,
        "last_updated": "2026-03-27T11:00:42.000Z",
    }


COINS = [
    coin("bitcoin", "btc", 1.3e12, 19_675_962.0),
    coin("ethereum", "eth", 3e11, 120_072_247.53217317),
    coin("batcat", "btc", 12_000.0, 9e9),
    coin("osmosis-allbtc", "btc", None, 5.0),
    coin("unknowable", "unk", None, None),
    coin("nothing-out", "nil", 0, 0),
]


class CoinGecko:
    """A server on loopback that answers as the public API does."""

    def __init__(self) -> None:
        """Listen; ``refuse`` holds answers (status, headers, body) that come first."""
        self.refuse: list[tuple[int, dict[str, str], bytes]] = []
        self.queries: list[dict[str, list[str]]] = []
        self.coins = list(COINS)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = parse_qs(parts.query)
                outer.queries.append(query)
                status, headers, body = outer.refuse.pop(0) if outer.refuse else (200, {}, outer.page(query))
                self.send_response(status if parts.path == "/api/v3/coins/markets" else 404)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/api/v3"

    def page(self, query: dict[str, list[str]]) -> bytes:
        """Return one page of what is asked for, largest market cap first."""
        wanted = set(query["symbols"][0].split(","))
        size, page = int(query["per_page"][0]), int(query["page"][0])
        rows = sorted((one for one in self.coins if one["symbol"] in wanted), key=lambda one: -(one["market_cap"] or 0))
        return json.dumps(rows[size * (page - 1) : size * page]).encode()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def gecko(monkeypatch: pytest.MonkeyPatch) -> Iterator[CoinGecko]:
    """CoinGecko on loopback, and no patience in between."""
    monkeypatch.setattr(supply, "RETRY_S", 0.001)
    one = CoinGecko()
    yield one
    one.close()


def test_supplies_are_fetched_and_the_largest_coin_of_a_symbol_is_taken(gecko: CoinGecko, tmp_path: Path) -> None:
    """BTC is bitcoin and that is said; what has no supply in circulation is told apart; the file reads back exactly."""
    path = tmp_path / "supply.csv"
    rows, missing = fetch_supply(
        path, ["btc", "ETH", "BTC", "UNK", "NIL", "ZZZ"], today="2026-03-27", base_url=gecko.url
    )

    assert [(one.asset, one.coin, one.supply, one.new) for one in rows] == [
        ("BTC", "bitcoin", 19_675_962.0, True),
        ("ETH", "ethereum", 120_072_247.53217317, True),
    ]
    assert rows[0].others == ("batcat", "osmosis-allbtc")
    assert missing == ["UNK", "NIL", "ZZZ"]
    assert path.read_text() == "date,asset,supply\n2026-03-27,BTC,19675962\n2026-03-27,ETH,120072247.532173\n"
    assert read_supply(path)["BTC"] == [(20_539 * DAY_NS, 19_675_962.0)]


def test_one_row_per_asset_and_day_and_old_rows_stay(gecko: CoinGecko, tmp_path: Path) -> None:
    """A second fetch of a day changes no byte; the next day's is appended."""
    path = tmp_path / "supply.csv"
    fetch_supply(path, ["BTC"], today="2026-03-27", base_url=gecko.url)
    before = path.read_bytes()
    gecko.coins = [coin("bitcoin", "btc", 1.3e12, 20e6)]
    (again,), _ = fetch_supply(path, ["BTC"], today="2026-03-27", base_url=gecko.url)
    assert not again.new
    assert path.read_bytes() == before

    fetch_supply(path, ["BTC"], today="2026-03-28", base_url=gecko.url)
    assert path.read_bytes() == before + b"2026-03-28,BTC,20000000\n"
    assert [value for _, value in read_supply(path)["BTC"]] == [19_675_962.0, 20e6]


def test_every_page_is_read_before_the_largest_is_chosen(
    gecko: CoinGecko, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More coins of a symbol than one page holds, in whatever order they come."""
    monkeypatch.setattr(supply, "PAGE_ROWS", 2)
    (one,), _ = fetch_supply(tmp_path / "supply.csv", ["BTC"], today="2026-03-27", base_url=gecko.url)

    assert one.coin == "bitcoin"
    assert len(gecko.queries) == 2
    assert gecko.queries[0]["include_tokens"] == ["all"]
    assert gecko.queries[0]["vs_currency"] == ["usd"]


def test_many_symbols_are_asked_for_in_parts(gecko: CoinGecko, tmp_path: Path) -> None:
    """The venue allows fifty at once where every coin is wanted."""
    names = [f"A{number}" for number in range(60)] + ["BTC"]
    rows, missing = fetch_supply(tmp_path / "supply.csv", names, today="2026-03-27", base_url=gecko.url)

    assert [one.asset for one in rows] == ["BTC"]
    assert len(missing) == 60
    assert max(len(one["symbols"][0].split(",")) for one in gecko.queries) <= 50


@pytest.mark.parametrize(
    "refusal",
    [(429, {"Retry-After": "0"}, b"{}"), (503, {}, b"oops"), (200, {}, b"<html>"), (200, {}, b'{"status": 1}')],
)
def test_passing_faults_are_waited_out(
    gecko: CoinGecko, tmp_path: Path, refusal: tuple[int, dict[str, str], bytes]
) -> None:
    """Too many requests, its own troubles, a page instead of JSON: asked again."""
    gecko.refuse = [refusal] * 3
    rows, _ = fetch_supply(tmp_path / "supply.csv", ["BTC"], today="2026-03-27", base_url=gecko.url)

    assert len(rows) == 1
    assert len(gecko.queries) == 4


def test_what_does_not_pass_is_one_line_and_writes_nothing(gecko: CoinGecko, tmp_path: Path) -> None:
    """Bounded retries, a pause longer than our patience, a refusal, nobody there."""
    path = tmp_path / "supply.csv"
    for refusals, why, asked in (
        ([(503, {}, b"")] * 9, "no supplies: status 503", 5),
        ([(429, {"Retry-After": "3600"}, b"")], "wants quiet for 3600 s", 1),
        ([(401, {}, b"")], "no supplies: status 401", 1),
    ):
        gecko.queries.clear()
        gecko.refuse = list(refusals)
        with pytest.raises(Unreachable, match=why):
            fetch_supply(path, ["BTC"], today="2026-03-27", base_url=gecko.url)
        assert len(gecko.queries) == asked
    gecko.close()
    with pytest.raises(Unreachable, match="ConnectError"):
        fetch_supply(path, ["BTC"], today="2026-03-27", base_url=gecko.url)
    with pytest.raises(ConfigError, match="must begin with https"):
        fetch_supply(path, ["BTC"], today="2026-03-27", base_url="http://api.example/v3")
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the first line must be date,asset,supply"),
        ("a,b\n1,2\n", "the first line must be date,asset,supply"),
        ("date,asset,supply\n2024-01-01,BTC\n", "line 2: 2 cells, not 3"),
        ("date,asset,supply\n2024-01-01,BTC,1\n\nyesterday,BTC,1\n", "line 4: 'yesterday' is no day"),
        ("date,asset,supply\n2024-01-01,BTC,-1\n", "supply '-1' is no positive number"),
        ("date,asset,supply\n2024-01-01,BTC,nan\n", "supply 'nan' is no positive number"),
        ("date,asset,supply\n2024-01-01,BTC,many\n", "supply 'many' is no positive number"),
        ("date,asset,supply\n2024-01-01,,1\n", "no asset"),
        ("date,asset,supply\n2024-01-01,BTC,1\n2024-01-01,btc,2\n", "line 3: BTC has another supply of 2024-01-01"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, why: str) -> None:
    """Which line, and what is wrong with it."""
    path = tmp_path / "supply.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_supply(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_supply(tmp_path / "none.csv")


def test_a_given_file_is_accepted_and_taken_over(tmp_path: Path) -> None:
    """Any order, a byte-order mark, times of day; rows that are here already stay."""
    given, path = tmp_path / "given.csv", tmp_path / "supply.csv"
    given.write_text("\ufeffdate,asset,supply\n2024-01-03,eth,120\n2024-01-02T12:00:00+00:00,BTC,2\n2024-01-01,BTC,1\n")
    add_supply(path, [("2024-01-01", "BTC", 7.0)])
    assert is_supply(given)
    assert import_supply(given, path) == 2

    found = read_supply(path)
    assert found == {
        "BTC": [(19_723 * DAY_NS, 7.0), (19_724 * DAY_NS + DAY_NS // 2, 2.0)],
        "ETH": [(19_725 * DAY_NS, 120.0)],
    }
