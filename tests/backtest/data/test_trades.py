"""Recorded trades on file: days that are replaced whole, freqtrade's files as they are, chunks that fit into memory."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet

from daemon.backtest.data import trade_reader
from daemon.backtest.data.trade_folder import list_trades
from daemon.backtest.data.trade_reader import chunks, facts_of_set, read_trades
from daemon.backtest.data.trade_store import by_day, id_before, merge, store
from daemon.backtest.data.trades import (
    DAY_NS,
    NO_TRADES,
    Facts,
    Trades,
    TradeSet,
    day_path,
    days_in,
    facts_of,
    folder_of,
    merged,
    numbered,
    read_day,
    set_of,
    sets_in,
    uncovered,
    write_day,
)
from daemon.domain.errors import ConfigError
from tests.backtest.data.trade_kit import DAY, PAIR, S, kept, trades

SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8)


def theirs(rows: Trades) -> Any:
    """Return rows as freqtrade keeps them."""
    return pa.table(
        {
            "timestamp": rows["ts_ns"] // 1_000_000,
            "id": [str(one) for one in rows["id"]],
            "type": [None] * len(rows),
            "side": ["sell" if one else "buy" for one in rows["sell"]],
            "price": rows["price"],
            "amount": rows["amount"],
            "cost": rows["price"] * rows["amount"],
        }
    )


def test_days_are_stored_and_read_in_bounded_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three days come back as they were, in id order, no chunk larger than allowed, cut to the nanosecond."""
    rows = trades(40_000, step_ns=6 * S)
    kept(tmp_path, rows, days=3)
    monkeypatch.setattr(trade_reader, "CHUNK_ROWS", 1_000)
    parts = list(read_trades(tmp_path, PAIR, 0, 2**62))
    begin, end = int(rows["ts_ns"][11_111]), int(rows["ts_ns"][33_333])

    assert max(len(one) for one in parts) == 1_000
    assert np.array_equal(np.concatenate(parts), rows)
    assert np.array_equal(np.concatenate(list(read_trades(tmp_path, PAIR, begin, end))), rows[11_111:33_333])
    assert list(read_trades(tmp_path, PAIR, DAY + 9 * DAY_NS, DAY + 10 * DAY_NS)) == []
    assert [path.name for _, path in days_in(folder_of(tmp_path, PAIR))] == [
        "2023-12-09.parquet",
        "2023-12-10.parquet",
        "2023-12-11.parquet",
    ]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    """In whatever portions they came."""
    rows = trades(5_000)
    span = [(DAY, DAY + DAY_NS)]
    one, other = folder_of(tmp_path / "one", PAIR), folder_of(tmp_path / "other", PAIR)
    store(one, rows, span, "contiguous")
    for part in (rows[3_000:], rows[:2_000], rows[1_000:4_000]):
        store(other, part, [], "contiguous")
    store(other, NO_TRADES, span, "contiguous")

    assert day_path(one, DAY).read_bytes() == day_path(other, DAY).read_bytes()


def test_what_is_here_stays(tmp_path: Path) -> None:
    """Another row of the same id is counted and left out; a day without trades is known too."""
    rows = trades(100)
    one = kept(tmp_path, rows, days=2)
    other = rows.copy()
    other["price"][7] += 1.0
    done = store(one.path, other, [], "contiguous")

    assert (done.new, done.differing) == (0, 1)
    assert np.array_equal(np.concatenate(list(chunks(one))), rows)
    assert facts_of(day_path(one.path, DAY + DAY_NS)) == (0, Facts(((DAY + DAY_NS, DAY + 2 * DAY_NS),), "contiguous"))
    (listed,) = list_trades(tmp_path)
    assert (listed.rows, listed.first_ns, listed.last_ns) == (100, rows["ts_ns"][0], rows["ts_ns"][-1])
    assert listed.covered_ns == ((DAY, DAY + 2 * DAY_NS),)


@pytest.mark.parametrize("suffix", [".feather", ".parquet"])
@pytest.mark.parametrize("rows_per_batch", [100, 100_000])
def test_freqtrades_files_are_read_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, rows_per_batch: int
) -> None:
    """Both formats, many batches or one, in bounded chunks."""
    rows = trades(2_500)
    rows["ts_ns"] = rows["ts_ns"] // 1_000_000 * 1_000_000
    path = tmp_path / f"BTC_USDT-trades{suffix}"
    if suffix == ".feather":
        feather.write_feather(theirs(rows), str(path), chunksize=rows_per_batch)
    else:
        parquet.write_table(theirs(rows), path, row_group_size=rows_per_batch)
    monkeypatch.setattr(trade_reader, "CHUNK_ROWS", 1_000)
    parts = list(read_trades(tmp_path, PAIR, 0, 2**62))

    assert np.array_equal(np.concatenate(parts), rows)
    assert max(len(one) for one in parts) <= 1_000
    assert [(one.pair, one.rows) for one in list_trades(tmp_path)] == [(PAIR, 2_500)]


def test_ids_that_are_no_numbers_are_kept_in_order_of_time(tmp_path: Path) -> None:
    """Hashes stand for them, the same ones every time; repetitions are noticed by them."""
    rows = trades(500)
    table = theirs(rows)
    names = [f"{one:x}-deal" for one in rows["id"]]
    table = table.set_column(table.schema.get_field_index("id"), "id", pa.array(names))
    feather.write_feather(table, str(tmp_path / "BTC_USDT-trades.feather"))
    found = np.concatenate(list(read_trades(tmp_path, PAIR, 0, 2**62)))
    ids, are_numbers = numbered(names)
    whole, new, differing = merge(found, found[100:200], "unordered")

    assert facts_of_set(set_of(tmp_path, PAIR)).ids == "unordered"
    assert not are_numbers
    assert np.array_equal(found["id"], ids)
    assert np.array_equal(found["price"], rows["price"])
    assert (len(whole), new, differing) == (500, 0, 0)
    assert np.array_equal(whole, found)


def test_a_folder_of_days_comes_before_a_single_file(tmp_path: Path) -> None:
    """And what is neither is left out."""
    kept(tmp_path, trades(10))
    feather.write_feather(theirs(trades(10)), str(tmp_path / "BTC_USDT-trades.feather"))
    feather.write_feather(theirs(trades(10)), str(tmp_path / "ETH_USDT-trades.feather"))
    (tmp_path / "notes.txt").write_text("")
    assert [(one.pair, one.ours) for one in sets_in(tmp_path)] == [(PAIR, True), ("ETH/USDT", False)]
    with pytest.raises(ConfigError, match="XRP/USDT: no trades in .*; it holds BTC/USDT, ETH/USDT"):
        set_of(tmp_path, "XRP/USDT")


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    """No parquet, other columns, no times, a price that cannot be true, an order that is broken."""
    one = kept(tmp_path, trades(100))
    path = day_path(one.path, DAY)
    for rows, why in (
        (trades(100)[::-1], "the order is broken"),
        (np.concatenate([trades(100), trades(100)[-1:]]), "the order is broken"),
    ):
        write_day(path, rows, Facts())
        with pytest.raises(ConfigError, match=why):
            list(read_trades(tmp_path, PAIR, 0, 2**62))
    bad = trades(100)
    bad["price"][5] = np.nan
    write_day(path, bad, Facts())
    with pytest.raises(ConfigError, match="at trade 1005 the price or size cannot be true"):
        list(read_trades(tmp_path, PAIR, 0, 2**62))
    parquet.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ConfigError, match="it has the columns"):
        list(read_trades(tmp_path, PAIR, 0, 2**62))
    parquet.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"ballast": b"{"}), path)
    with pytest.raises(ConfigError, match="its own description is broken"):
        facts_of(path)
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ConfigError, match="no trades"):
        read_day(path)
    (tmp_path / "ETH_USDT-trades.feather").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no trades"):
        list(read_trades(tmp_path, "ETH/USDT", 0, 2**62))


@given(SPANS, st.integers(0, 50), st.integers(0, 50))
def test_stretches_of_time_are_sets(spans: list[tuple[int, int]], begin: int, end: int) -> None:
    """What is covered and what is not are the same moments as counted one by one."""
    moments = {at for first, last in spans for at in range(first, last)}
    whole = merged(spans)

    assert {at for first, last in whole for at in range(first, last)} == moments
    assert all(one[1] < other[0] for one, other in itertools.pairwise(whole))
    assert {at for first, last in uncovered(spans, begin, end) for at in range(first, last)} == (
        set(range(begin, end)) - moments
    )


@given(st.lists(st.integers(0, 30), max_size=40), st.lists(st.integers(0, 30), max_size=40))
def test_merging_keeps_ours_and_every_id_once(ours: list[int], others: list[int]) -> None:
    """The same as a dictionary of ids says."""
    mine, more = trades(len(ours)), trades(len(others), seed=2)
    mine["id"], more["id"] = ours, others
    whole, new, differing = merge(mine, more, "contiguous")
    wanted = {int(row["id"]): row for row in [*mine[::-1]]}
    late = [row for row in more if int(row["id"]) in wanted]
    added: dict[int, np.void] = {}
    for row in more:
        if int(row["id"]) in wanted:
            continue
        if int(row["id"]) in added:
            late.append(row)
        else:
            added[int(row["id"])] = row
    wanted |= added

    assert [row.tolist() for row in whole] == [wanted[one].tolist() for one in sorted(wanted)]
    assert new == len(added)
    assert differing == sum(row.tolist() != wanted[int(row["id"])].tolist() for row in late)


def test_the_trade_before_a_time_is_known_only_where_nothing_can_lie_between(tmp_path: Path) -> None:
    """At the end of what is covered, over days without trades; not where the stretch began after the last trade."""
    rows = trades(100)
    one = kept(tmp_path, rows, days=3)
    end = DAY + 3 * DAY_NS
    assert id_before(one.path, end, ((DAY, end),)) == 1_099
    assert id_before(one.path, end, ((DAY + DAY_NS, end),)) is None
    assert id_before(one.path, end - 1, ((DAY, end),)) is None
    assert id_before(one.path, int(rows["ts_ns"][50]), ((DAY, int(rows["ts_ns"][50])),)) == 1_050


def test_rows_are_split_at_midnight() -> None:
    """In the order in which they come."""
    rows = trades(5, begin_ns=DAY + DAY_NS - 12 * S)
    assert [(at, len(part)) for at, part in by_day(rows)] == [(DAY, 3), (DAY + DAY_NS, 2)]
    assert list(by_day(NO_TRADES)) == []


def test_reading_years_needs_the_memory_of_a_chunk(tmp_path: Path) -> None:
    """Three million trades in six days, 100 MB as rows: reading them grows the process by less than one day's 17 MB."""
    for day in range(6):
        rows = trades(500_000, begin_ns=DAY + day * DAY_NS, step_ns=170_000_000, first_id=1_000 + day * 500_000)
        store(folder_of(tmp_path, PAIR), rows, [(DAY + day * DAY_NS, DAY + (day + 1) * DAY_NS)], "contiguous")
    code = """
import resource, sys
from pathlib import Path
from typing import Any
from daemon.backtest.data.trade_reader import read_trades
parts = read_trades(Path(sys.argv[1]), "BTC/USDT", 0, 2**62)
count = len(next(parts))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count += sum(len(part) for part in parts)
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    count, grown_mb = (int(one) for one in done.stdout.split())
    assert count == 3_000_000
    assert grown_mb < 60
    assert TradeSet(folder_of(tmp_path, PAIR), PAIR).ours
