"""Binance's public dumps and freqtrade's files are taken over; what is damaged is refused; what is here stays."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pyarrow import feather

from daemon.backtest.data.trade_check import inspect_trades
from daemon.backtest.data.trade_dumps import dumps_in, import_dump, import_sets, pair_of, whole_spans
from daemon.backtest.data.trade_reader import chunks, facts_of_set
from daemon.backtest.data.trades import DAY_NS, Trades, TradeSet, folder_of
from daemon.domain.errors import ConfigError
from tests.backtest.data.test_trades import theirs
from tests.backtest.data.trade_kit import DAY, LATER, PAIR, S, kept, trades

HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"


def dump(rows: Trades, *, unit_ns: int = 1_000_000, futures: bool = False) -> str:
    """Return rows as Binance's dumps hold them: spot without a line of names, futures with one and without best match."""
    lines = [HEADER] if futures else []
    for row in rows:
        cells = [
            row["id"],
            f"{row['price']:.8f}",
            f"{row['amount']:.8f}",
            row["id"],
            row["id"],
            row["ts_ns"] // unit_ns,
        ]
        lines.append(",".join(map(str, [*cells, bool(row["sell"]), *([] if futures else [True])])))
    return "\n".join(lines) + "\n"


def zipped(path: Path, text: str) -> Path:
    """Write a dump as it is published, with its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.csv", text)
    path.with_name(path.name + ".CHECKSUM").write_text(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    )
    return path


def held(folder: Path) -> Trades:
    """Return everything of the pair."""
    return np.concatenate(list(chunks(TradeSet(folder_of(folder, PAIR), PAIR))))


@pytest.mark.parametrize("unit_ns", [1_000_000, 1_000])
@pytest.mark.parametrize("futures", [False, True])
def test_a_day_in_milliseconds_or_microseconds(tmp_path: Path, unit_ns: int, *, futures: bool) -> None:
    """Exactly the rows, the whole day known, nothing wrong with it; a second time nothing is new."""
    rows = trades(10_000)
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2023-12-09.zip", dump(rows, unit_ns=unit_ns, futures=futures))
    first, again = import_dump(path, tmp_path / "data"), import_dump(path, tmp_path / "data")
    one = TradeSet(folder_of(tmp_path / "data", PAIR), PAIR)

    assert (first.pair, first.rows, first.differing) == (PAIR, 10_000, 0)
    assert (again.rows, again.differing) == (0, 0)
    assert held(tmp_path / "data").tolist() == rows.tolist()
    assert facts_of_set(one).covered == ((DAY, DAY + DAY_NS),)
    assert inspect_trades(one, now_ns=LATER) == ()


def test_a_month_and_a_folder_of_days(tmp_path: Path) -> None:
    """A month is cut into days; days of a folder come in order."""
    rows = trades(40_000)
    month = tmp_path / "BTCUSDT-aggTrades-2023-12.csv"
    month.write_text(dump(rows))
    assert import_dump(month, tmp_path / "month").rows == 40_000
    for day in range(3):
        part = rows[(rows["ts_ns"] >= DAY + day * DAY_NS) & (rows["ts_ns"] < DAY + (day + 1) * DAY_NS)]
        zipped(tmp_path / "days" / f"BTCUSDT-aggTrades-2023-12-{9 + day:02}.zip", dump(part))
    names = [import_dump(path, tmp_path / "data").file for path in dumps_in(tmp_path / "days")]

    assert names == [f"BTCUSDT-aggTrades-2023-12-{day:02}.zip" for day in (9, 10, 11)]
    assert held(tmp_path / "data").tolist() == held(tmp_path / "month").tolist() == rows.tolist()
    assert facts_of_set(TradeSet(folder_of(tmp_path / "data", PAIR), PAIR)).covered == ((DAY, DAY + 3 * DAY_NS),)


def test_a_dump_that_lacks_trades_is_not_called_whole(tmp_path: Path) -> None:
    """The time between the neighbours of a missing id is left to be fetched."""
    rows = trades(1_000)
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2023-12-09.zip", dump(np.delete(rows, [500, 501])))
    import_dump(path, tmp_path / "data")
    covered = facts_of_set(TradeSet(folder_of(tmp_path / "data", PAIR), PAIR)).covered

    assert covered == ((DAY, int(rows["ts_ns"][499])), (int(rows["ts_ns"][502]) + 1, DAY + DAY_NS))
    assert whole_spans(rows[:0], (3, 9)) == [(3, 9)]


def test_damaged_dumps_are_refused_in_one_line(tmp_path: Path) -> None:
    """A checksum that differs, a torn zip, a torn line, other columns, names that tell nothing."""
    text = dump(trades(1_000))
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2023-12-09.zip", text)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + bytes(40))
    with pytest.raises(ConfigError, match=r"not what .*CHECKSUM says"):
        import_dump(path, tmp_path / "data")
    path.with_name(path.name + ".CHECKSUM").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        import_dump(path, tmp_path / "data")
    path.write_bytes(whole[:2_000] + bytes([whole[2_000] ^ 255]) + whole[2_001:])
    with pytest.raises(ConfigError, match="damaged|cannot be read"):
        import_dump(path, tmp_path / "data")
    file = tmp_path / "BTCUSDT-aggTrades-2023-12-10.csv"
    for broken, why in (
        (text[: text.rindex(",") - 2], "no trades"),
        ("1,2,3\n", "3 columns, not 8"),
        (text.replace("False", "maybe"), "no trades"),
        (text.replace("1003,", ",", 1), "no trades"),
    ):
        file.write_text(broken)
        with pytest.raises(ConfigError, match=why):
            import_dump(file, tmp_path / "data")
    for name, why in (
        ("BTCUSDT-trades-2023-12-09.csv", "no dump of trades"),
        ("QQQQQQ-aggTrades-2023-12-09.csv", "ends with no quote currency"),
        ("BTCUSDT-aggTrades-2023-13-09.csv", "is no day"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=why):
            import_dump(tmp_path / name, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("symbol", "pair"),
    [("BTCUSDT", "BTC/USDT"), ("ETHBTC", "ETH/BTC"), ("BTCFDUSD", "BTC/FDUSD"), ("1000SATSUSDT", "1000SATS/USDT")],
)
def test_base_and_quote_are_told_apart(symbol: str, pair: str) -> None:
    """The longest known quote ends the name."""
    assert pair_of(symbol, Path("x")) == pair


def test_freqtrades_trades_become_days(tmp_path: Path) -> None:
    """Ids that follow each other prove the stretch whole, over midnight too; where they skip a fetch will ask again."""
    rows = trades(30_000)
    rows["ts_ns"] = rows["ts_ns"] // 1_000_000 * 1_000_000
    source = tmp_path / "theirs"
    source.mkdir()
    feather.write_feather(theirs(np.delete(rows, 25_000)), str(source / "BTC_USDT-trades.feather"), chunksize=7_000)
    (done,) = import_sets(source, tmp_path / "data")
    one = TradeSet(folder_of(tmp_path / "data", PAIR), PAIR)

    assert (done.rows, done.differing) == (29_999, 0)
    assert held(tmp_path / "data").tolist() == np.delete(rows, 25_000).tolist()
    assert facts_of_set(one).covered == (
        (int(rows["ts_ns"][0]), int(rows["ts_ns"][24_999])),
        (int(rows["ts_ns"][25_001]) + 1, int(rows["ts_ns"][-1])),
    )
    assert [each.kind for each in inspect_trades(one, now_ns=LATER)] == ["unfetched"]


def test_another_folder_of_ours_is_taken_over_with_what_it_knows(tmp_path: Path) -> None:
    """Rows and stretches; a folder into itself does nothing."""
    rows = trades(20_000, step_ns=7 * S)
    kept(tmp_path / "a", rows, days=2)
    (done,) = import_sets(tmp_path / "a", tmp_path / "b")

    assert done.rows == 20_000
    assert held(tmp_path / "b").tolist() == rows.tolist()
    assert facts_of_set(TradeSet(folder_of(tmp_path / "b", PAIR), PAIR)).covered == ((DAY, DAY + 2 * DAY_NS),)
    assert list(import_sets(tmp_path / "a", tmp_path / "a")) == []
