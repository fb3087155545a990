"""The HTTP API (DESIGN A5): health, what the daemon knows, and operator commands as events.

It holds no state and reaches nothing: everything comes through a ``Reader``, commands leave through one callable. Only
``kill`` does something itself: it makes the latch first, since no engine may stand between an operator and a kill.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, cast

import msgspec
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import Response

from daemon.domain.events import Action
from daemon.outlets import logs
from daemon.outlets.apidocs import POLICY, page
from daemon.outlets.listener import App, Guard, Listener, Tokens, write_private
from daemon.outlets.rates import Rates
from daemon.outlets.times import jsonable
from daemon.settings_values import is_loopback, split_listen

ROWS_MAX: Final = 1_000
ADDRESS_FILE: Final = "api.address"
LATCH_FILE: Final = "KILL"

Limit = Annotated[int, Query(ge=1, le=ROWS_MAX)]


class Reason(msgspec.Struct, frozen=True):
    """One reason why the daemon is not ready; ``code`` is stable."""

    code: str
    detail: str


class Reader(Protocol):
    """What the API shows, by value: msgspec structs, dicts, tuples and plain values; newest rows first."""

    def not_ready(self) -> Sequence[Reason]:
        """Return why the daemon is not ready; empty when it is."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Return mode, instance, trading state with causes, equity, feeds, versions."""
        ...

    def positions(self) -> Sequence[Any]:
        """Return what is held, one row per pair."""
        ...

    def orders(self, limit: int) -> Sequence[Any]:
        """Return open and recent orders."""
        ...

    def fills(self, limit: int) -> Sequence[Any]:
        """Return recent fills."""
        ...

    def decisions(self, limit: int) -> Sequence[Any]:
        """Return recent decisions."""
        ...

    def decision(self, decision_id: str) -> Any | None:
        """Return the explanation of a decision or order, None when it is unknown; called in a thread, may take a while."""
        ...

    def equity(self, limit: int) -> Mapping[str, Any]:
        """Return equity, cash, realised and unrealised profit, fees, drawdown and the recent curve."""
        ...

    def risk(self) -> Mapping[str, Any]:
        """Return limits, their use, stops, cool-downs and latches."""
        ...

    def config(self) -> Mapping[str, Any]:
        """Return the configuration, secrets redacted."""
        ...

    def bars(self, pair: str, limit: int) -> Sequence[Any] | None:
        """Return closed bars of a pair, None when it is not in the universe."""
        ...

    def forecasts(self) -> Sequence[Any]:
        """Return the newest forecast of every pair."""
        ...

    def models(self) -> Sequence[Any]:
        """Return the registered models."""
        ...


Submit = Callable[[Action, str], str]
"""Enqueue an operator's command (action, source) as an event and return its id."""


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(jsonable(value)), status, media_type="application/json")


def make_app(reader: Reader, submit: Submit, *, latch: Path) -> FastAPI:
    """Return the FastAPI application, without the guard.

    Parameters
    ----------
    reader
        Where answers come from.
    submit
        Where commands go.
    latch
        The kill latch, made before a kill is submitted.
    """
    app = FastAPI(
        title="Ballast", version=version("ballast"), docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    _add_docs(app)
    _add_health(app, reader)
    _add_reads(app, reader)
    _add_tables(app, reader)
    _add_commands(app, submit, latch)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        logs.get("ballast.api").error("request failed", path=request.url.path, exc_info=error)
        return _json({"detail": f"internal error: {type(error).__name__}; the log has it"}, 500)

    return app


def _add_docs(app: FastAPI) -> None:
    made: list[str] = []

    @app.get("/api/docs", include_in_schema=False)
    async def docs() -> Response:
        """Return this interface's documentation, readable without any other host."""
        if not made:
            made.append(page(app.openapi()))
        return Response(made[0], media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})


def _add_health(app: FastAPI, reader: Reader) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        """Say that the process and its loop are alive."""
        return _json({"ok": True})

    @app.get("/readyz")
    async def readyz() -> Response:
        """Say whether the daemon can do its work, and if not, why."""
        reasons = list(reader.not_ready())
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


def _add_reads(app: FastAPI, reader: Reader) -> None:
    archive = asyncio.Lock()

    @app.get("/api/v1/status")
    async def status() -> Response:
        """Return mode, trading state, equity and feeds."""
        reasons = list(reader.not_ready())
        return _json({**reader.status(), "ready": not reasons, "reasons": reasons})

    @app.get("/api/v1/positions")
    async def positions() -> Response:
        """Return what is held."""
        return _json({"positions": reader.positions()})

    @app.get("/api/v1/orders")
    async def orders(limit: Limit = 100) -> Response:
        """Return open and recent orders, newest first."""
        return _json({"orders": reader.orders(limit)})

    @app.get("/api/v1/fills")
    async def fills(limit: Limit = 100) -> Response:
        """Return recent fills, newest first."""
        return _json({"fills": reader.fills(limit)})

    @app.get("/api/v1/decisions")
    async def decisions(limit: Limit = 100) -> Response:
        """Return recent decisions, newest first."""
        return _json({"decisions": reader.decisions(limit)})

    @app.get("/api/v1/decisions/{decision_id:path}")
    async def decision(decision_id: str) -> Response:
        """Return why a decision or order exists: what ``ballast explain`` shows."""
        async with archive:  # the ledger is read in a thread, one question at a time: the loop has orders to send
            found = await asyncio.to_thread(reader.decision, decision_id)
        if found is None:
            raise HTTPException(404, f"no decision {decision_id[:100]}")
        return _json(found)


def _add_tables(app: FastAPI, reader: Reader) -> None:
    @app.get("/api/v1/equity")
    async def equity(limit: Limit = 500) -> Response:
        """Return equity, profit, fees and the recent curve."""
        return _json(reader.equity(limit))

    @app.get("/api/v1/risk")
    async def risk() -> Response:
        """Return limits, their use, stops and latches."""
        return _json(reader.risk())

    @app.get("/api/v1/config")
    async def config() -> Response:
        """Return the configuration, secrets redacted."""
        return _json(reader.config())

    @app.get("/api/v1/bars/{pair:path}")
    async def bars(pair: str, limit: Limit = 500) -> Response:
        """Return closed bars of a pair, ``BTC/USDT`` or ``BTC-USDT``, newest first."""
        found = reader.bars(pair.replace("-", "/", 1), limit)
        if found is None:
            raise HTTPException(404, f"{pair[:50]} is not in the universe")
        return _json({"bars": found})

    @app.get("/api/v1/forecasts")
    async def forecasts() -> Response:
        """Return the newest forecast of every pair."""
        return _json({"forecasts": reader.forecasts()})

    @app.get("/api/v1/models")
    async def models() -> Response:
        """Return the registered models."""
        return _json({"models": reader.models()})


def _add_commands(app: FastAPI, submit: Submit, latch: Path) -> None:
    def add(path: str, action: Action, summary: str) -> None:
        async def command() -> Response:
            if action is Action.KILL:
                _latch(latch)
            return _json({"ok": True, "action": action.value, "id": submit(action, "api")}, 202)

        app.post(f"/api/v1/{path}", summary=summary, name=path)(command)

    add("pause", Action.PAUSE, "Make no more decisions; stops stay live")
    add("resume", Action.RESUME, "Lift pause and latched halts; never a kill")
    add("reduce-only", Action.REDUCE_ONLY, "Let exposure only fall")
    add("flatten", Action.FLATTEN, "Sell everything, then reduce-only")
    add("kill", Action.KILL, "Cancel everything and halt")


def _latch(path: Path) -> None:
    """Make the kill latch unless it is there; a latch that cannot be written must not keep the command from the engine."""
    try:
        with path.open("x") as file:
            file.write("api\n")
    except FileExistsError:
        pass
    except OSError as error:
        logs.get("ballast.api").error("kill latch cannot be written", path=str(path), error=error.strerror)


class Api(Listener):
    """The guarded API on its listener; writes ``<state_dir>/api.address`` so that the command line finds port 0."""

    def __init__(
        self,
        listen: str,
        reader: Reader,
        submit: Submit,
        *,
        tokens: Tokens,
        state_path: Path,
        rates: Rates | None = None,
    ) -> None:
        loopback = is_loopback(split_listen(listen)[0])
        app = make_app(reader, submit, latch=state_path / LATCH_FILE)
        super().__init__("api.listen", listen, Guard(cast("App", app), tokens, loopback=loopback, rates=rates))
        self._address_file = state_path / ADDRESS_FILE

    def bind(self) -> None:
        """Take the port and write its address down."""
        super().bind()
        write_private(self._address_file, self.address)

    async def serve(self) -> None:
        """Serve until cancelled or stopped."""
        try:
            await super().serve()
        finally:
            self._address_file.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the port when `serve` never ran."""
        super().close()
        self._address_file.unlink(missing_ok=True)
