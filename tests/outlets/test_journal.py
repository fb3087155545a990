"""The flight recorder: order, torn tails, bounds, damage."""

import os
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.domain.events import Action, Command, Event, Flow, Repair, Timer
from daemon.domain.market import Tick
from daemon.outlets import journal as recorder
from daemon.outlets.journal import DamagedJournalError, EffectsHash, Frame, Header, Journal, Lost, read_journal, runs

FRAME = b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","s":"BTCUSDT","p":"1.0"}}'


def make(folder: Path, start_ns: int = 7, max_bytes: int = 10**9, segment_bytes: int = 1 << 20) -> Journal:
    """A recorder with small segments."""
    return Journal(
        folder,
        max_bytes,
        start_ns=start_ns,
        code_version="1",
        config_hash="h",
        config_json='{"a": 1}',
        engine_json="{}",
        segment_bytes=segment_bytes,
    )


def events(count: int) -> list[Event]:
    """Events of two kinds in turn."""
    return [Timer(n, n + 5) if n % 2 else Flow("USDT", Decimal(f"{n}.10"), True, "deposit", n) for n in range(count)]


def test_round_trip_in_order(tmp_path: Path) -> None:
    """What went in comes out, interleaved as it was, Decimals exact."""
    journal = make(tmp_path)
    wanted: list[object] = [Header(7, "1", "h", '{"a": 1}', "{}")]
    for n, event in enumerate(events(5_000)):
        journal.add_frame(n, 0, FRAME)
        journal.add_event(event)
        wanted += [Frame(n, 0, FRAME), event]
        if n % 1000 == 0:
            journal.add_effects_hash(n, f"{n:x}")
            wanted.append(EffectsHash(n, f"{n:x}"))
            journal.flush_now()
    journal.close()

    assert list(read_journal(tmp_path)) == wanted
    assert journal.bytes_written == sum(path.stat().st_size for path in tmp_path.iterdir())


async def test_background_flush(tmp_path: Path) -> None:
    """The loop's flush writes in a thread; what arrives meanwhile goes with the next one."""
    journal = make(tmp_path)
    journal.add_event(Command("1", Action.PAUSE, "cli", 3))
    await journal.flush()
    journal.add_event(Timer(1, 2))
    assert journal.pending == 1
    assert [type(record) for record in read_journal(tmp_path)] == [Header, Command]
    journal.close()

    assert list(read_journal(tmp_path))[1:] == [Command("1", Action.PAUSE, "cli", 3), Timer(1, 2)]


@pytest.mark.parametrize("cut", [1, 5, 15, 16, 17, 40])
def test_torn_tail(tmp_path: Path, cut: int) -> None:
    """A block that was not written whole is left out silently; all before it are there."""
    journal = make(tmp_path)
    for n in range(3):
        journal.add_event(Timer(n, n))
        journal.flush_now()
    journal.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])

    records = list(read_journal(path))

    assert records[0] == Header(7, "1", "h", '{"a": 1}', "{}")
    assert records[1:] == [Timer(n, n) for n in range(len(records) - 1)]
    assert len(records) < 4


def test_garbage_at_the_tail(tmp_path: Path) -> None:
    """A last block whose bytes never reached the disk (a power cut leaves zeros) counts as torn."""
    journal = make(tmp_path)
    journal.add_event(Timer(1, 1))
    journal.close()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-4:] = b"\0\0\0\0"
    path.write_bytes(bytes(data))

    assert [type(record) for record in read_journal(path)] == [Header]


def test_damage_before_the_tail(tmp_path: Path) -> None:
    """A changed byte in the middle is reported, never replayed."""
    journal = make(tmp_path)
    for n in range(3):
        journal.add_event(Timer(n, n))
        journal.flush_now()
    journal.close()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(recorder.MAGIC) + 20] ^= 0xFF
    path.write_bytes(bytes(data))

    with pytest.raises(DamagedJournalError, match="damaged at byte 8: checksum differs"):
        list(read_journal(path))


def test_not_a_journal(tmp_path: Path) -> None:
    """Foreign files and empty folders are refused in one line."""
    foreign = tmp_path / "x.journal"
    foreign.write_bytes(b"something else entirely")

    with pytest.raises(DamagedJournalError, match="not a journal"):
        list(read_journal(foreign))
    with pytest.raises(DamagedJournalError, match="no journal segments"):
        list(read_journal(tmp_path / ".."))


def test_total_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    """Segments of earlier runs go before those of this one; the total stays under the bound."""
    bound = 40_000
    old = make(tmp_path, start_ns=1, max_bytes=bound, segment_bytes=5_000)
    for n in range(2_000):
        old.add_frame(n, 0, os.urandom(64))
        if n % 50 == 0:
            old.flush_now()
    old.close()
    new = make(tmp_path, start_ns=2, max_bytes=bound, segment_bytes=5_000)
    for n in range(4_000):
        new.add_frame(n, 0, os.urandom(64))
        if n % 50 == 0:
            new.flush_now()
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bound
    new.close()

    assert set(runs(tmp_path)) == {2}
    kept = [record for record in read_journal(tmp_path) if isinstance(record, Frame)]
    assert [frame.recv_ns for frame in kept] == list(range(kept[0].recv_ns, 4_000))
    assert kept[0].recv_ns > 0


def test_segments_of_one_run_follow_each_other(tmp_path: Path) -> None:
    """Every segment begins with a header that says which one it is."""
    journal = make(tmp_path, segment_bytes=4_096)
    for n in range(1_000):
        journal.add_frame(n, 0, os.urandom(64))
        if n % 20 == 0:
            journal.flush_now()
    journal.close()
    headers = [record for record in read_journal(tmp_path) if isinstance(record, Header)]

    assert len(headers) > 2
    assert [header.segment for header in headers] == list(range(len(headers)))


def test_newest_run_is_read(tmp_path: Path) -> None:
    """A folder means its newest run."""
    for start in (5, 9):
        journal = make(tmp_path, start_ns=start)
        journal.add_event(Timer(start, start))
        journal.close()

    assert list(read_journal(tmp_path))[1:] == [Timer(9, 9)]


def test_a_full_disk_stops_recording_not_trading(tmp_path: Path) -> None:
    """Failed writes are counted; when the disk is back a `Lost` record marks the hole."""
    journal = make(tmp_path)
    journal.add_event(Timer(1, 1))
    journal.flush_now()
    blocked = tmp_path / "gone"
    journal._folder = blocked / "deeper"
    journal._close_segment()
    journal.add_event(Timer(2, 2))
    journal.flush_now()

    assert "No such file" in journal.failure
    assert journal.records_lost == 1
    (blocked / "deeper").mkdir(parents=True)
    journal.add_event(Timer(3, 3))
    journal.close()
    records = list(read_journal(blocked / "deeper"))
    assert isinstance(records[1], Lost)
    assert (records[1].count, records[2]) == (1, Timer(3, 3))


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """What was written before stays readable, nothing is lost unnoticed, and no heap of empty files grows."""
    import resource

    journal = make(tmp_path)
    for n in range(100):
        journal.add_frame(n, 0, os.urandom(1000))
    journal.flush_now()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        for n in range(100, 200):
            journal.add_frame(n, 0, os.urandom(1000))
        journal.flush_now()
        assert "File too large" in journal.failure
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        for _ in range(5):
            journal.add_event(Timer(1, 1))
            journal.flush_now()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list(tmp_path.iterdir())) == 1
    journal.add_event(Timer(2, 2))
    journal.close()
    records = list(read_journal(tmp_path))

    assert [record.recv_ns for record in records if isinstance(record, Frame)] == list(range(100))
    assert [record.count for record in records if isinstance(record, Lost)] == [105]
    assert records[-1] == Timer(2, 2)
    assert [record.segment for record in records if isinstance(record, Header)] == [0, 1]


def test_sizes_beyond_64_bits_are_kept(tmp_path: Path) -> None:
    """A trade of 3e11 units (PEPE, SHIB) has more lots than msgpack's integers hold: it is recorded all the same."""
    huge = Tick("PEPE/USDT", 1, 1e-5, 3 * 10**19, 1, 1, sell=False)
    event = Repair("PEPE/USDT", 1, 1, (huge,), ok=True, detail="", ts_ns=1)
    journal = Journal(tmp_path, 10**7, start_ns=1)
    journal.add_event(event)
    journal.add_frame(1, 0, b"x")
    journal.close()

    _, first, second = read_journal(tmp_path)

    assert first == event
    assert second == Frame(1, 0, b"x")
