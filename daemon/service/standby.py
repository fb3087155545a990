"""The way to the ledger: at once, or as a hot standby that waits until the instance that holds the account is gone.

A standby sends nothing and reads no market. It answers `/healthz`, is never ready, and says whom it waits for; the one
command it takes is a kill. When the locks are free it opens the ledger, which raises the epoch, and the start goes on as
every start does: recover, reconcile, then trade.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
import structlog
from fastapi import HTTPException

from daemon.core.causes import KILL
from daemon.core.memory import Memory
from daemon.domain.errors import AlreadyRunning, ConfigError, Fatal, Transient
from daemon.domain.events import Action, Restored
from daemon.edge.ledger import SqlLedger
from daemon.edge.supervisor import Supervisor
from daemon.outlets.api import LATCH_FILE, Api, Reason, make_app
from daemon.outlets.listener import App, Guard, Listener, Tokens
from daemon.outlets.metrics import Metrics, MetricsListener
from daemon.service.wiring import tokens_of
from daemon.settings import Settings, redacted
from daemon.settings_values import is_loopback, split_listen

POLL_S: Final = 0.25
"""How often the locks are tried."""
CODE: Final = "standby"
API: Final = "standby api"
METRICS: Final = "standby metrics"

Command = Callable[[Action, str], str]

log = structlog.get_logger("ballast")


class Standby:
    """Opens the ledger for one start.

    Parameters
    ----------
    settings
        Says whether a second instance waits (``ledger.standby``) or ends with 75.
    ledger
        Not open yet.
    command
        Takes an operator's command.
    metrics
        Shown while waiting, with the state HALTED.
    supervisor
        Runs what answers people.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: SqlLedger,
        *,
        command: Command,
        metrics: Metrics,
        supervisor: Supervisor,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._command = command
        self._metrics = metrics
        self._supervisor = supervisor
        self.holder = ""

    async def open(self, on_lost: Callable[[Fatal], None]) -> Restored:
        """Return what the ledger remembers once it is ours; ``on_lost`` is told when it is not any more.

        Raises
        ------
        AlreadyRunning
            Another instance holds it and this one is no standby.
        """
        self._ledger.on_lost = on_lost
        try:
            restored = await self._opened()
        except BaseException:
            await self._ledger.close()
            raise
        if self._ledger.moved and _killed(restored.state_json):
            # The latch is a file on the other host. Whoever kills there must not find us trading here.
            self._command(Action.KILL, f"taken over from {self._ledger.moved}, where it was")
        return restored

    async def _opened(self) -> Restored:
        while self._settings.ledger.standby:
            await self._wait()
            with contextlib.suppress(AlreadyRunning):  # the server ended our session just now, and somebody was quicker
                return await self._ledger.open()
        return await self._ledger.open()

    async def _wait(self) -> None:
        """Wait until every lock is ours, answering people meanwhile."""
        self.holder = await self._try()
        if not self.holder:
            return
        log.warning("standby", waiting_for=self.holder)
        tokens = tokens_of(self._settings, keep=self._ledger.folder_held)
        api = self._api(tokens)
        scrape = MetricsListener(self._settings.metrics.listen, self._metrics, tokens=tokens)
        api.bind()
        scrape.bind()
        log.info("standby listens", api=api.address)
        began = asyncio.get_running_loop().time()
        self._supervisor.outlet(API, api.serve)
        self._supervisor.outlet(METRICS, scrape.serve)
        try:
            while self.holder:
                await asyncio.sleep(POLL_S)
                self.holder = await self._try()
        finally:
            await self._supervisor.stop(API, METRICS)
        log.warning("takeover", waited_s=round(asyncio.get_running_loop().time() - began, 1))

    def _api(self, tokens: Tokens) -> Listener:
        """Return the API; in a state folder of another instance it leaves that one's address alone."""
        listen, path, answers = self._settings.api.listen, self._settings.state_path, _Answers(self)
        if self._ledger.folder_held:
            return Api(listen, answers, self._take, tokens=tokens, state_path=path)
        app = make_app(answers, self._take, latch=path / LATCH_FILE)
        loopback = is_loopback(split_listen(listen)[0])
        return Listener("api.listen", listen, Guard(cast("App", app), tokens, loopback=loopback))

    async def _try(self) -> str:
        try:
            return await self._ledger.take()
        except Transient as error:
            return str(error)
        except ConfigError as error:
            if not self.holder:  # wrong from the start; later it is a server in the middle of a failover
                raise
            return str(error)

    def _take(self, action: Action, source: str) -> str:
        """Take a kill, which latches on this host; what else is asked would be carried out at a takeover, perhaps days later."""
        if action is not Action.KILL:
            raise HTTPException(409, f"this instance is a standby and does not trade; {self.holder}")
        return self._command(action, source)

    # ------------------------------------------------------------------ what it says about itself

    def not_ready(self) -> Sequence[Reason]:
        """Return the one reason."""
        return (Reason(CODE, self.holder or "taking over"),)

    def status(self) -> Mapping[str, Any]:
        """Return what is known without an engine."""
        settings = self._settings
        return {
            "instance": settings.instance,
            "mode": settings.mode,
            "exchange": settings.exchange.id,
            "state": "halted",
            "causes": (CODE,),
            "waiting_for": self.holder,
        }

    def config(self) -> Mapping[str, Any]:
        """Return the configuration, secrets redacted."""
        return redacted(self._settings)


class _Answers:
    """A standby as the API's reader: itself, and nothing about a market it does not read."""

    def __init__(self, standby: Standby) -> None:
        self.not_ready = standby.not_ready
        self.status = standby.status
        self.config = standby.config

    def positions(self) -> Sequence[Any]:
        return ()

    def orders(self, limit: int) -> Sequence[Any]:
        return ()

    def fills(self, limit: int) -> Sequence[Any]:
        return ()

    def decisions(self, limit: int) -> Sequence[Any]:
        return ()

    def decision(self, decision_id: str) -> Any | None:
        return None

    def equity(self, limit: int) -> Mapping[str, Any]:
        return {}

    def risk(self) -> Mapping[str, Any]:
        return {}

    def bars(self, pair: str, limit: int) -> Sequence[Any] | None:
        return ()

    def forecasts(self) -> Sequence[Any]:
        return ()

    def models(self) -> Sequence[Any]:
        return ()


def _killed(state_json: str) -> bool:
    """Say whether a kill is part of what the ledger remembers."""
    try:
        return bool(state_json) and KILL in msgspec.json.decode(state_json, type=Memory).causes
    except msgspec.DecodeError:
        return False  # the engine says so and halts
