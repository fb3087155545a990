"""Logs: one redacting handler for everything, bounded lines."""

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.outlets import logs

KEY = "MARKERapikey0123456789abcdef"
SECRET = "MARKERsecret9876543210fedcba"


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    logging.captureWarnings(False)
    for handler in [one for one in root.handlers if one is logs._handler]:
        root.removeHandler(handler)


def started(style: logs.Style, level: str = "info") -> io.StringIO:
    """Set logging up on a buffer."""
    stream = io.StringIO()
    logs.setup(style=style, level=level, secrets=[KEY, SECRET], stream=stream)
    return stream


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_secret_passes(style: logs.Style) -> None:
    """Marker secrets and whatever looks like one are gone from events, library records and tracebacks."""
    stream = started(style, "debug")
    ours, ccxt = logs.get("ballast"), logging.getLogger("ccxt.base.exchange")
    url = f"https://api.binance.com/api/v3/account?timestamp=1&signature={'ab' * 32}"

    ours.info("start", api_key=KEY, note=f"key {KEY}")
    ours.warning("signed", url=url, headers={"X-MBX-APIKEY": "notregistered123"})
    logging.getLogger("lib").error("failed %s", url)
    ccxt.debug("Request: %s", {"X-MBX-APIKEY": "notregistered123"})
    ccxt.info("Authorization: Bearer abcdefabcdef")
    ours.info("db", url="postgresql://user:pa55word@host/db")
    try:
        raise ValueError(f"GET {url} {SECRET}")
    except ValueError:
        ours.exception("request failed")
        logging.getLogger("lib").exception("again")

    text = stream.getvalue()
    assert "request failed" in text
    assert "Traceback" in text
    for hidden in (KEY, SECRET, "ab" * 32, "notregistered123", "abcdefabcdef", "pa55word"):
        assert hidden not in text
    assert "Request:" not in text  # ccxt's debug lines print the key: they are off whatever the level


def test_json_lines_are_json_and_bounded() -> None:
    """One object per line with time, level, logger and keys; a huge value is cut."""
    stream = started("json")
    logs.get("ballast").bind(task="feed").info("hello", pair="BTC/USDT", blob="x" * 100_000)
    logging.getLogger("library").info("from a library")

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())

    assert (first["event"], first["task"], first["pair"], first["level"]) == ("hello", "feed", "BTC/USDT", "info")
    assert list(first)[:4] == ["timestamp", "level", "logger", "event"]
    assert first["timestamp"].endswith("Z")
    assert len(stream.getvalue().splitlines()[0]) <= logs.LINE_CHARS_MAX
    assert (second["event"], second["logger"]) == ("from a library", "library")


def test_console_lines_are_bounded() -> None:
    """A console line is cut in the middle."""
    stream = started("console")
    logs.get("ballast").info("start " + "y" * 20_000 + " end")

    assert len(stream.getvalue()) <= logs.LINE_CHARS_MAX + 100
    assert " … " in stream.getvalue()


def test_level_and_auto_style() -> None:
    """What is below the level is not shown; a stream that is no terminal gets JSON."""
    stream = io.StringIO()
    logs.setup(style="auto", level="warning", stream=stream)
    logs.get("ballast").info("hidden")
    logs.get("ballast").warning("shown")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["shown"]


def test_setup_twice_keeps_one_handler() -> None:
    """A second set-up replaces the first."""
    old, new = started("json"), started("json")
    logs.get("ballast").info("once")

    assert old.getvalue() == ""
    assert len(new.getvalue().splitlines()) == 1


def test_colours_hide_nothing() -> None:
    """On a terminal key and value are torn apart by colours; a secret is hidden all the same."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    logs.setup(style="auto", level="info", stream=stream)
    logs.get("ballast").info(
        "start", api_secret="notregistered123", url="https://x/?signature=abcdef0123", pair="BTC/USDT"
    )

    text = stream.getvalue()
    assert "\x1b[" in text
    assert "BTC/USDT" in text
    assert "notregistered123" not in text
    assert "abcdef0123" not in text


def test_f72_a_reader_that_stops_reading_stops_nobody() -> None:
    """F72: lines that would block are dropped; the next one that gets through says how many, and every line is whole."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as far, os.fdopen(writer, "w", encoding="utf-8") as near:
        logs.setup(style="json", stream=near)
        for number in range(3_000):
            logs.get("ballast").info("line", number=number, text="x" * 300)
        os.set_blocking(reader, False)
        text = b"".join(iter(lambda: far.read(1 << 20) or b"", b""))
        logs.get("ballast").info("last")
        rest = [json.loads(line) for line in (far.read(1 << 20) or b"").splitlines() if line.endswith(b"}")]

    kept = text.count(b"\n")
    assert 0 < kept < 3_000
    assert [one["event"] for one in rest] == ["log_dropped", "last"]
    assert rest[0]["lines"] == 3_000 - kept


def test_f72_a_disk_that_is_full_raises_nothing() -> None:
    """F72: what cannot be written is counted, not raised and not printed elsewhere."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        logs.setup(style="json", stream=full)
        logs.get("ballast").info("line")
        assert logs._handler is not None
        assert getattr(logs._handler, "dropped", 0) == 1
