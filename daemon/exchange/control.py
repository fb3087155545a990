"""The control interface under /sim: scripts faults, moves money and prices, and tells the truth. Loopback only."""

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from daemon.exchange.errors import ApiError
from daemon.exchange.faults import FaultRule
from daemon.exchange.requests import Incoming
from daemon.exchange.rest_account import ticket_of
from daemon.exchange.universe import SymbolSpec

if TYPE_CHECKING:
    from daemon.exchange.server import SimulatedExchange

__all__ = ["Control"]


class Control:
    """Answers /sim requests; bodies and answers are JSON."""

    def __init__(self, exchange: "SimulatedExchange") -> None:
        """Steer an exchange."""
        self._exchange = exchange
        self._routes: dict[tuple[str, str], Callable[[dict[str, Any], dict[str, str]], Any]] = {
            ("POST", "/sim/faults"): self._add_fault,
            ("GET", "/sim/faults"): self._faults,
            ("DELETE", "/sim/faults"): self._clear_faults,
            ("GET", "/sim/truth"): self._truth,
            ("GET", "/sim/requests"): self._requests,
            ("GET", "/sim/stats"): self._stats,
            ("POST", "/sim/deposit"): self._deposit,
            ("POST", "/sim/place"): self._place,
            ("POST", "/sim/cancel"): self._cancel,
            ("POST", "/sim/expire"): self._expire,
            ("POST", "/sim/crash"): self._crash,
            ("POST", "/sim/status"): self._status,
            ("POST", "/sim/fee"): self._fee,
            ("POST", "/sim/clock"): self._clock,
            ("POST", "/sim/rules"): self._rules,
            ("POST", "/sim/push"): self._push,
            ("POST", "/sim/disconnect"): self._disconnect,
            ("POST", "/sim/terminate"): self._terminate,
            ("POST", "/sim/ping"): self._ping,
        }

    def answer(self, incoming: Incoming) -> tuple[int, bytes]:
        """Handle a control request: (HTTP status, JSON)."""
        route = self._routes.get((incoming.method, incoming.path))
        if route is None:
            return 404, msgspec.json.encode({"error": f"no {incoming.method} {incoming.path}"})
        try:
            body = msgspec.json.decode(incoming.body) if incoming.body else {}
            return 200, msgspec.json.encode(route(body, incoming.params))
        except ApiError as error:
            return error.status, msgspec.json.encode({"code": error.code, "msg": error.text})
        except (msgspec.MsgspecError, ArithmeticError, KeyError, ValueError) as error:
            return 400, msgspec.json.encode({"error": f"{type(error).__name__}: {error}"})

    def _add_fault(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        return {"id": self._exchange.faults.add(msgspec.convert(body, FaultRule))}

    def _faults(self, _body: dict[str, Any], _params: dict[str, str]) -> Any:
        return {"fired": {str(number): count for number, count in self._exchange.faults.counts().items()}}

    def _clear_faults(self, _body: dict[str, Any], params: dict[str, str]) -> Any:
        if "id" in params:
            self._exchange.faults.remove(int(params["id"]))
        else:
            self._exchange.faults.clear()
        return {}

    def _truth(self, _body: dict[str, Any], _params: dict[str, str]) -> Any:
        return self._exchange.truth()

    def _requests(self, _body: dict[str, Any], params: dict[str, str]) -> Any:
        since = int(params.get("since_ns", "0"))
        wanted = params.get("path", "")
        return [seen for seen in self._exchange.requests if seen.ns >= since and wanted in seen.path]

    def _stats(self, _body: dict[str, Any], _params: dict[str, str]) -> Any:
        return self._exchange.stats()

    def _deposit(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        self._exchange.users.deposit(str(body["asset"]), Decimal(str(body["amount"])))
        return {}

    def _place(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        params = {name: str(value) for name, value in body.items()}
        venue = self._exchange.venue
        return venue.desk.place(ticket_of(venue, params), external=True)

    def _cancel(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        venue = self._exchange.venue
        index = venue.symbol({"symbol": str(body["symbol"])})
        order_id = int(body["orderId"]) if "orderId" in body else None
        return venue.desk.cancel(index, order_id, body.get("clientOrderId"), cancel_id=venue.client_id())

    def _expire(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        venue = self._exchange.venue
        index = venue.symbol({"symbol": str(body["symbol"])})
        order_id = int(body["orderId"]) if "orderId" in body else None
        order = venue.desk.find(index, order_id, body.get("clientOrderId"))
        if order is None or order not in venue.desk.open_orders(index):
            raise KeyError("no such open order")
        venue.desk.expire(order)
        return order

    def _crash(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        pct = float(body["pct"])
        if not -1000 < pct < 100:
            raise ValueError(f"pct is {pct}, must be below 100; it is the fall in percent")
        index = self._exchange.venue.symbol({"symbol": str(body["symbol"])})
        self._exchange.market.crash(index, 1 - pct / 100)
        return {}

    def _status(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        status = str(body["status"])
        if status not in {"TRADING", "HALT", "BREAK", "CANCEL_ONLY"}:
            raise ValueError(f"status is {status!r}, must be TRADING, HALT, BREAK or CANCEL_ONLY")
        index = self._exchange.venue.symbol({"symbol": str(body["symbol"])})
        self._exchange.venue.desk.status[index] = status
        return {}

    def _fee(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        desk = self._exchange.venue.desk
        desk.fee_rate = Decimal(str(body.get("rate", desk.fee_rate)))
        if "asset" in body:
            desk.fee_asset = (str(body["asset"]), Decimal(str(body["price"]))) if body["asset"] else None
        return {}

    def _clock(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        self._exchange.venue.offset_ms = int(body["offset_ms"])
        return {}

    def _rules(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        desk = self._exchange.venue.desk
        index = self._exchange.venue.symbol({"symbol": str(body.pop("symbol"))})
        changed = msgspec.to_builtins(desk.rules[index]) | body
        desk.rules[index] = msgspec.convert(changed, SymbolSpec)
        return {}

    def _push(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        if "hex" in body:  # bytes that are no text
            return {"pushed": self._exchange.push(str(body.get("kind", "all")), bytes.fromhex(str(body["hex"])))}
        frame = body["frame"]
        raw = frame.encode() if isinstance(frame, str) else msgspec.json.encode(frame)
        raw *= int(body.get("times", 1))
        return {"pushed": self._exchange.push(str(body.get("kind", "all")), raw)}

    def _disconnect(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        return {"closed": self._exchange.disconnect(str(body.get("kind", "all")), int(body.get("code", 0)))}

    def _ping(self, body: dict[str, Any], _params: dict[str, str]) -> Any:
        return {"connections": self._exchange.flood(str(body.get("kind", "all")), int(body["count"]))}

    def _terminate(self, _body: dict[str, Any], _params: dict[str, str]) -> Any:
        self._exchange.users.terminate()
        return {}
