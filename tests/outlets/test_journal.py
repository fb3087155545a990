"""The flight recorder: order, torn tails, bounds, damage."""

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.core.market import Market
from daemon.core.snapshot import Picture, freeze, pieces
from daemon.domain.events import Action, Command, Event, Flow, Repair, Timer
from daemon.domain.market import Tick
from daemon.outlets import journal as recorder
from daemon.outlets.journal import (
    DamagedJournalError,
    EffectsHash,
    Frame,
    Header,
    Journal,
    Lost,
    Opened,
    Piece,
    read_journal,
    read_segment,
    runs,
)
from tests.core.driver import Driver, make_config

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


async def test_f72_a_segment_that_can_be_neither_written_nor_removed_does_no_harm(tmp_path: Path) -> None:
    """The disk turns at the worst moment, between opening and writing: the flush returns, the rest is recorded later."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    turns = ["turn"]

    def boundary(name: str) -> None:
        if name == "journal.block.before" and turns:
            turns.clear()
            (segment,) = tmp_path.iterdir()
            segment.rename(aside)
            segment.mkdir()  # the kernel removes no folder as a file
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))

    aside = tmp_path.with_name("aside")
    journal = Journal(tmp_path, 10**9, start_ns=7, boundary=boundary)
    journal.add_event(Timer(1, 1))
    try:
        await journal.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "File too large; it cannot be removed: Is a directory" in journal.failure
    assert journal.records_lost == 1
    (segment,) = tmp_path.iterdir()
    segment.rmdir()
    journal.add_event(Timer(2, 2))
    await journal.flush()
    journal.close()
    header, lost, timer = read_journal(tmp_path)
    assert isinstance(header, Header)
    assert header.segment == 1
    assert isinstance(lost, Lost)
    assert (lost.count, timer, journal.failure) == (1, Timer(2, 2), "")


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


# ---------------------------------------------------------------------------------------------- segments with a state


def picture(bars: int = 8) -> Picture:
    """The state of an engine with a few bars."""
    return freeze(Driver(make_config(backfill_bars=bars)).start(bars=8).engine)


def fill(journal: Journal, count: int, first: int = 0) -> None:
    """Record frames that hardly compress, a flush after every ten."""
    for n in range(first, first + count):
        journal.add_frame(n, 0, os.urandom(100))
        if n % 10 == 9:
            journal.flush_now()


def test_a_cut_begins_a_segment_with_the_state(tmp_path: Path) -> None:
    """Header, every piece, then how many effects there were; the segment before ends with the same count."""
    journal = make(tmp_path)
    fill(journal, 20)
    taken = picture()
    journal.cut(taken, 5, "ab")
    fill(journal, 20, 20)
    journal.close()
    before, after = (list(read_segment(path)) for path in sorted(tmp_path.iterdir()))
    parts = [one.data for one in after if isinstance(one, Piece)]

    assert before[-1] == EffectsHash(5, "ab")
    assert [type(one) for one in before] == [Header, *[Frame] * 20, EffectsHash]
    assert [type(one) for one in after] == [Header, *[Piece] * len(parts), Opened, *[Frame] * 20]
    assert after[1 + len(parts)] == Opened(5, "ab")
    assert parts == list(pieces(taken))
    assert [one.segment for one in (*before, *after) if isinstance(one, Header)] == [0, 1]


def test_a_full_segment_asks_for_a_cut_and_gets_large_without_one(tmp_path: Path) -> None:
    """Due at its size, pressing at half as much again, at twice its size it ends all the same: the bound holds."""
    journal = make(tmp_path, segment_bytes=10_000)
    fill(journal, 50)
    assert not journal.due
    fill(journal, 50)
    assert journal.due
    assert not journal.pressing
    fill(journal, 50)
    assert journal.pressing
    fill(journal, 100)
    assert len(list(tmp_path.iterdir())) == 2
    assert journal.due, "the second segment has no state of its own"
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000

    journal.cut(picture(), 1, "")
    assert not journal.due
    assert not journal.pressing
    journal.flush_now()
    assert not journal.due
    journal.close()
    assert [one.segment for one in read_journal(tmp_path) if isinstance(one, Header)] == [0, 1, 2]


def test_a_block_larger_than_a_segment_does_not_begin_one_without_a_state(tmp_path: Path) -> None:
    """Histories come in large blocks: one that does not fit goes into the segment that is there, which is cut afterwards."""
    journal = make(tmp_path, segment_bytes=10_000)
    journal.cut(picture(), 1, "")
    journal.flush_now()
    journal.add_frame(1, 0, os.urandom(50_000))
    journal.flush_now()
    journal.add_frame(2, 0, os.urandom(100))
    assert journal.pressing
    journal.cut(picture(), 2, "")
    journal.close()

    segments = [list(read_segment(path)) for path in sorted(tmp_path.iterdir())]
    assert [any(isinstance(one, Opened) for one in records) for records in segments] == [False, True, True]
    assert [sum(isinstance(one, Frame) for one in records) for records in segments] == [0, 2, 0]


def test_a_segment_is_larger_than_the_state_it_opens_with(tmp_path: Path) -> None:
    """Where the state is larger than a segment should be, half of the journal is state and not all of it."""
    journal = make(tmp_path, segment_bytes=4_096)
    journal.cut(picture(), 1, "")
    journal.flush_now()
    state = max(path.stat().st_size for path in tmp_path.iterdir())
    assert not journal.due
    fill(journal, 2 * state // 110)
    assert journal.due
    journal.close()


def test_whole_segments_go_and_the_bound_holds_with_states(tmp_path: Path) -> None:
    """The oldest segments are removed whole; what is kept begins with a state and follows without a hole."""
    bound = 200_000
    journal = make(tmp_path, max_bytes=bound, segment_bytes=20_000)
    taken = picture()
    for n in range(0, 8_000, 100):
        fill(journal, 100, n)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bound
        if journal.due:
            journal.cut(taken, n, "")
    journal.close()
    kept = [list(read_segment(path)) for path in sorted(tmp_path.iterdir())]
    numbers = [one.segment for records in kept for one in records if isinstance(one, Header)]
    frames = [one.recv_ns for records in kept for one in records if isinstance(one, Frame)]

    assert numbers[0] > 3
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert frames == list(range(frames[0], 8_000))
    assert all(any(isinstance(one, Opened) for one in records) for records in kept)
    assert sum(map(len, kept)) > 500


def test_a_state_that_cannot_be_kept_does_not_end_the_recording(tmp_path: Path) -> None:
    """The failure is told; records go on in a segment that follows from the one before."""
    driver = Driver(make_config()).start()
    odd: Any = driver.engine
    odd.state.odd = {Market("BTC/USDT", 1): 1}
    journal = make(tmp_path)
    fill(journal, 10)
    journal.cut(freeze(driver.engine), 1, "")
    fill(journal, 10, 10)

    assert "Market cannot be kept" in journal.snapshot_failure
    assert journal.failure == ""
    assert not journal.due
    journal.cut(picture(), 1, "")
    journal.close()
    assert journal.snapshot_failure == ""
    assert [one.recv_ns for one in read_journal(tmp_path) if isinstance(one, Frame)] == list(range(20))
    assert sum(isinstance(one, Opened) for one in read_journal(tmp_path)) == 1


def test_after_a_full_disk_the_next_segment_gets_a_state(tmp_path: Path) -> None:
    """A disk that fills while the state is written leaves no half segment; once it is back, a new state is asked for."""
    import resource

    journal = make(tmp_path)
    fill(journal, 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        journal.cut(picture(10_000), 1, "")
        fill(journal, 10, 10)
        assert "File too large" in journal.failure
        assert not journal.due, "a disk that refuses writes takes no state"
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    fill(journal, 10, 20)
    assert journal.due
    journal.cut(picture(), 2, "")
    fill(journal, 10, 30)
    assert not journal.due
    journal.close()
    records = list(read_journal(tmp_path))

    assert [one.recv_ns for one in records if isinstance(one, Frame)] == [*range(10), *range(20, 40)]
    assert [one.count for one in records if isinstance(one, Lost)] == [10]
    assert isinstance(records[-11], Opened)


def test_records_lost_behind_a_state_ask_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped while a state was on its way to the disk: the hole stands behind it, and what follows gets a new one."""
    monkeypatch.setattr(recorder, "PENDING_RECORDS_MAX", 3)
    journal = make(tmp_path)
    journal.cut(picture(), 1, "")
    batch = journal._take()
    for at in range(2):
        for n in range(4):
            journal.add_event(Timer(n, at))
        journal._bound()
    journal._write(batch)
    journal.add_event(Timer(9, 9))
    journal.flush_now()
    assert journal.due
    journal.cut(picture(), 2, "")
    journal.flush_now()
    assert not journal.due
    journal.close()
    kept = [one for one in read_journal(tmp_path) if not isinstance(one, Piece | Header)]

    assert journal.records_lost == 8
    assert kept == [
        EffectsHash(1, ""), Opened(1, ""), Lost(8, "too many records waited for the disk"), Timer(9, 9), EffectsHash(2, ""),
        Opened(2, ""),
    ]  # fmt: skip


def test_records_that_waited_too_long_ask_for_a_new_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped records, a state among them or not, make what follows unreplayable: it is noticed at once."""
    monkeypatch.setattr(recorder, "PENDING_RECORDS_MAX", 3)
    journal = make(tmp_path)
    journal.cut(picture(), 1, "")
    for n in range(4):
        journal.add_event(Timer(n, n))
    journal._bound()

    assert journal.records_lost == 5  # four events and a hash; the state itself is no record
    assert journal.due
    journal.close()
