"""Structured logs: console on a terminal, JSON otherwise, on stderr; no secret leaves through any handler.

Standard-library records and structlog events share one formatter, so ccxt, uvicorn and asyncio lines are rendered,
redacted and bounded as ours are. Redaction works on the rendered line, exception text included: whatever the record
looked like, what reaches the sink was cleaned.
"""

import json
import logging
import os
import re
import select
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

LINE_CHARS_MAX = 8192
"""Longest rendered record; the middle of a longer one (tracebacks, venue answers) is cut out."""

VALUE_CHARS_FREE = 512
"""Values up to this length are never cut; longer ones share half a line."""

WRITE_BYTES_MAX = 4096
"""Bytes of one write: so many never block where the system says that writing is possible."""

SECRET_CHARS_MIN = 6
"""Shorter registered secrets are not searched for: they would blank ordinary words."""

HIDDEN = "[redacted]"

_PATTERNS = (
    # query strings and headers of signed requests: ccxt's exceptions carry the whole signed query
    re.compile(r"(?i)\b(signature|api[_-]?key|apikey|api[_-]?secret|secret|passwd|password|token|listenKey)(=)[^&\s'\",;)]+"),
    re.compile(r"(?i)([\"']?(?:signature|api[_-]?key|x-mbx-apikey|api[_-]?secret|secret|password|authorization|token)[\"']?\s*:\s*)(b?[\"'])[^\"']*"),
    re.compile(r"(?i)\b(bearer)(\s+)[A-Za-z0-9._~+/=-]+"),
    re.compile(r"(://[^/\s:@]+)(:)[^/\s@]+(?=@)"),
)  # fmt: skip

_SECRET_KEY = re.compile(r"(?i)secret|password|passwd|token|api[_-]?key|apikey|signature|authorization")

Style = Literal["auto", "console", "json"]


class _Redactor:
    """Removes registered secrets and whatever looks like one."""

    def __init__(self) -> None:
        self._secrets: tuple[str, ...] = ()

    def register(self, secrets: Iterable[str]) -> None:
        known = {*self._secrets, *(secret for secret in secrets if len(secret) >= SECRET_CHARS_MIN)}
        self._secrets = tuple(sorted(known, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<1>\g<2>{HIDDEN}", text)
        return text


_redact = _Redactor()
_handler: logging.Handler | None = None


def register_secrets(secrets: Iterable[str]) -> None:
    """Register values (keys, tokens) that must never appear in a log line."""
    _redact.register(secrets)


def clean(text: str) -> str:
    """Return the text with secrets replaced and its length bounded to ``LINE_CHARS_MAX`` characters."""
    text = _redact(text)
    if len(text) > LINE_CHARS_MAX:
        half = LINE_CHARS_MAX // 2
        text = f"{text[:half]} … {len(text) - 2 * half} characters cut … {text[-half:]}"
    return text


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders a record and cleans the result, exceptions included."""

    def __init__(self, *, as_json: bool, colors: bool, pre: "list[Processor]") -> None:
        renderer: Processor
        if as_json:
            renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
        else:
            renderer = structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            )
        chain: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
        if as_json:
            chain += [structlog.processors.format_exc_info, _clean_values, _in_order]
        else:
            chain += [_clean_values]
        super().__init__(foreign_pre_chain=pre, processors=[*chain, renderer])

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


def _clean_values(_logger: Any, _name: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Hide secrets by key, which colours may cut from its value later, and cut long texts so that a line stays JSON."""
    budget = LINE_CHARS_MAX // 2
    for key, value in event.items():
        if not isinstance(value, str):
            continue
        text = HIDDEN if _SECRET_KEY.search(key) and value else _redact(value)
        if len(text) > VALUE_CHARS_FREE:
            half = max(budget, VALUE_CHARS_FREE) // 2
            text = text if len(text) <= 2 * half else f"{text[:half]} … {text[-half:]}"
            budget -= len(text)
        event[key] = text
    return event


def _in_order(_logger: Any, _name: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Put time, level, logger and event first: lines are read by people too."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "logger", "event") if key in event}
    return {**first, **event}


class _Handler(logging.StreamHandler[TextIO]):
    """Writes a record at once, or drops and counts it where that would block or the disk is full (F72).

    Whoever reads the log must never hold up trading: a pipe that nobody empties would stop the loop in the middle of
    a write. The next line that gets through says how many were lost.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.dropped = 0
        self._torn = False
        self._fd = -1
        self._ready = select.poll()
        try:
            self._fd = stream.fileno()
        except (AttributeError, OSError, ValueError):
            return  # in memory: nothing blocks
        self._ready.register(self._fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, before it the count of those that were lost."""
        if self._fd < 0:
            super().emit(record)
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a record that cannot be rendered is lost, never more than that
            self.handleError(record)
            return
        note = ""
        if self.dropped:
            note = (
                json.dumps({"level": "warning", "logger": "ballast", "event": "log_dropped", "lines": self.dropped})
                + "\n"
            )
        begin = "\n" if self._torn else ""
        if self._put(f"{begin}{note}{line}\n".encode(errors="replace")):
            self.dropped, self._torn = 0, False
        else:
            self.dropped += 1

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Count what could not be written; saying more would go the same way."""
        self.dropped += 1

    def _put(self, data: bytes) -> bool:
        """Write all of it without blocking; false when it cannot be, or not to its end."""
        rest = memoryview(data)
        while rest:
            if not self._ready.poll(0):
                break
            try:
                rest = rest[os.write(self._fd, rest[:WRITE_BYTES_MAX]) :]
            except OSError:
                break
        self._torn = self._torn or 0 < len(rest) < len(data)
        return not rest


def setup(
    *, style: Style = "auto", level: str = "info", secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Send all logging, ours and the libraries', through one redacting handler on stderr (or ``stream``).

    Parameters
    ----------
    style
        "console", "json", or "auto": console on a terminal, JSON otherwise.
    level
        debug, info, warning or error. ccxt never logs below info: its debug lines print the API key.
    secrets
        Values that must never appear.
    """
    global _handler  # noqa: PLW0603 (the process has one root logger)
    register_secrets(secrets)
    target = stream if stream is not None else sys.stderr
    terminal = target.isatty()
    as_json = style == "json" or (style == "auto" and not terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
    _handler = _Handler(target)
    _handler.setFormatter(_Formatter(as_json=as_json, colors=terminal, pre=shared))
    root.addHandler(_handler)
    root.setLevel(level.upper())
    for name in (
        "ccxt",
        "ccxt.base.exchange",
        "websockets",
        "aiohttp.access",
        "urllib3",
        "asyncio",
        "uvicorn",
        "httpx",
    ):
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    for name in ("uvicorn.access", "uvicorn.error", "alembic"):  # each start and end would be announced
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def setup_if_needed() -> None:
    """Set logging up with the defaults unless ``setup`` ran before."""
    if _handler is None:
        setup()


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger; bind its keys once per task."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
