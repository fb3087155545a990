"""The golden tape: the same recorded events twice give the same effects, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.domain.market import BarFlag
from daemon.domain.orders import Side
from tests.replay.tape import CONFIG, SYMBOLS, Frame, Played, load, play, sums, trades

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[Frame]:
    """Six minutes of both symbols, every kind of frame."""
    return load(shared_data / "ws")


@pytest.fixture(scope="module")
def first(frames: list[Frame]) -> Played:
    """The tape, played once."""
    return play(frames)


def test_the_tape_is_worth_playing(first: Played) -> None:
    """Bars of both symbols close every second, decisions are made and orders sent on both sides; nothing is missing."""
    assert first.decided > 200
    assert first.kinds["Step"] >= first.decided
    assert len(first.sent) > 50
    assert {one.symbol for one in first.sent} == set(SYMBOLS)
    assert {one.side for one in first.sent} == {Side.BUY, Side.SELL}
    assert not {"FetchTrades", "FetchBar", "Backfill", "Resolve", "CancelAll"} & set(first.kinds)


def test_every_bar_is_the_independent_sum(frames: list[Frame], first: Played) -> None:
    """Open, high, low, close, volume and count equal a sum in Decimal of the same trades, second by second."""
    for symbol, rows in trades(frames).items():
        expected = sums(rows)
        bars = [one for one in first.bars if one.symbol == symbol and one.open_ns >= first.live_ns]
        assert len(bars) > 200
        assert [after.open_ns for after in bars[1:]] == [before.close_ns for before in bars[:-1]]
        for one in bars:
            if one.flag is BarFlag.EMPTY:
                assert one.open_ns not in expected
                assert one.volume == 0
            else:
                assert one.flag is BarFlag.LIVE
                shown = (one.open, one.high, one.low, one.close, one.volume, one.trades)
                assert shown == expected[one.open_ns]


def test_i10_twice_the_same(frames: list[Frame], first: Played) -> None:
    """I10: a second pass in the same process gives the same digest over every effect."""
    second = play(frames)

    assert (second.effects, second.digest) == (first.effects, first.digest)
    assert second.sent == first.sent


def test_i10_another_process_the_same(shared_data: Path, first: Played) -> None:
    """I10: another process with another hash seed and environment gives the same digest."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.replay.tape", str(shared_data / "ws")],
        cwd=REPO, env={**os.environ, "PYTHONHASHSEED": "4711", "TZ": "Pacific/Apia", "OMP_NUM_THREADS": "2"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    assert done.stdout.strip() == first.digest


def test_i10_restored_on_the_way_the_same(frames: list[Frame], first: Played) -> None:
    """I10: engine and worker replaced every 5.3 seconds of the tape by new ones that get a snapshot: the same digest."""
    split = play(frames, again_ns=5_300_000_000)

    assert (split.effects, split.digest) == (first.effects, first.digest)
    assert split.sent == first.sent


def test_one_changed_digit_is_seen(frames: list[Frame], first: Played) -> None:
    """The digest holds what matters: one trade's price in the last digit makes another one."""
    seen: list[bytes] = []

    def spoil(one: Frame) -> Frame:
        recv_ns, frame = one
        if not seen and b"ethusdt@trade" in frame and recv_ns > first.live_ns + 60_000_000_000:
            price = frame.index(b'"p":"') + 5
            end = frame.index(b"0000", price) - 1
            seen.append(frame)
            frame = frame[:end] + (b"1" if frame[end : end + 1] != b"1" else b"2") + frame[end + 1 :]
        return recv_ns, frame

    assert play(frames, spoil=spoil).digest != first.digest
    assert len(seen) == 1


def test_f19_a_lost_frame_is_a_gap_that_is_asked_for(frames: list[Frame], first: Played) -> None:
    """F19: one lost trade is noticed by its id and asked for; unanswered, its bars are marked and its symbol does not grow."""
    lost: list[Frame] = []

    def spoil(one: Frame) -> Frame | None:
        if not lost and b"btcusdt@trade" in one[1] and one[0] > first.live_ns + 60_000_000_000:
            lost.append(one)
            return None
        return one

    played = play(frames, spoil=spoil)

    assert len(lost) == 1
    assert played.kinds["FetchTrades"] >= 1
    assert played.digest != first.digest
    lost_ns = lost[0][0]
    gapped = [one for one in played.bars if one.flag is BarFlag.GAPPED]
    assert gapped
    assert {one.symbol for one in gapped} == {"BTC/USDT"}
    assert gapped[0].open_ns <= lost_ns + 1_000_000_000
    frozen = (lost_ns + 1_000_000_000, lost_ns + CONFIG.repair_timeout_ns)
    bought = [one for one in played.sent if one.side is Side.BUY and frozen[0] < one.ts_ns < frozen[1]]
    assert [one for one in bought if one.symbol == "BTC/USDT"] == []
