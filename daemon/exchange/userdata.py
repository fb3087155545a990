"""User data events: executionReport, outboundAccountPosition and balanceUpdate, pushed to every subscription."""

from decimal import Decimal
from typing import Any

import msgspec

from daemon.exchange.clients import Connection
from daemon.exchange.desk import Report
from daemon.exchange.text import amount
from daemon.exchange.venue import Venue

__all__ = ["UserData"]


class UserData:
    """The subscriptions to the account's events."""

    def __init__(self, venue: Venue) -> None:
        """Follow the desk's reports."""
        self._venue = venue
        self._subscriptions: dict[tuple[Connection, int], None] = {}
        self._next = 0
        self.frames = 0
        venue.desk.reports.append(self._on_report)
        venue.desk.balance_changes.append(self._on_balances)

    def subscribe(self, connection: Connection) -> int:
        """Start pushing events to a connection; return the subscription's id."""
        number = self._next
        self._next += 1
        self._subscriptions[connection, number] = None
        return number

    def subscriptions(self, connection: Connection) -> list[int]:
        """List the subscriptions of a connection."""
        return [number for held, number in self._subscriptions if held is connection]

    def unsubscribe(self, connection: Connection, number: int | None = None) -> None:
        """End one subscription of a connection, or all of them."""
        for held in [pair for pair in self._subscriptions if pair[0] is connection and number in {None, pair[1]}]:
            del self._subscriptions[held]

    def terminate(self) -> None:
        """End every subscription from the exchange's side, as when a key is revoked."""
        self._push({"e": "eventStreamTerminated", "E": self._venue.now_ms()})
        self._subscriptions.clear()

    def deposit(self, asset: str, change: Decimal) -> None:
        """Book a deposit or withdrawal and tell the subscribers.

        Raises
        ------
        ValueError
            When the withdrawal exceeds the free amount.
        """
        now = self._venue.now_ms()
        self._venue.books.deposit(asset, change, now)
        self._on_balances({asset})
        self._push({"e": "balanceUpdate", "E": now, "a": asset, "d": amount(change), "T": now})

    def _push(self, event: dict[str, Any]) -> None:
        subject = "user " + str(event["e"])
        body = msgspec.json.encode(event)
        for connection, number in tuple(self._subscriptions):
            frame = b'{"subscriptionId":' + str(number).encode() + b',"event":' + body + b"}"
            connection.push(frame, subject)
            self.frames += 1

    def _on_balances(self, assets: set[str]) -> None:
        held = [(asset, self._venue.books.balance(asset)) for asset in sorted(assets)]
        self._push(
            {
                "e": "outboundAccountPosition",
                "E": self._venue.now_ms(),
                "u": self._venue.books.update_ms,
                "B": [{"a": asset, "f": amount(b.free), "l": amount(b.locked)} for asset, b in held],
            }
        )

    def _on_report(self, report: Report) -> None:
        order, fill = report.order, report.fill
        cancelled = report.kind == "CANCELED"
        event: dict[str, Any] = {
            "e": "executionReport", "E": self._venue.now_ms(), "s": order.symbol, "c": report.client_id,
            "S": order.side, "o": order.type, "f": order.tif, "q": amount(order.qty), "p": amount(order.price),
            "P": "0.00000000", "F": "0.00000000", "g": -1, "C": order.client_id if cancelled else "",
            "x": report.kind, "X": order.status, "r": "NONE", "i": order.order_id,
            "l": amount(fill.qty if fill else Decimal(0)), "z": amount(order.filled),
            "L": amount(fill.price if fill else Decimal(0)),
            "n": amount(fill.commission) if fill else "0", "N": fill.commission_asset if fill else None,
            "T": order.update_ms, "t": fill.trade_id if fill else -1, "I": self._event_id(report),
            "w": order.working, "m": fill.maker if fill else False, "M": False, "O": order.time_ms,
            "Z": amount(order.quote_filled), "Y": amount(fill.price * fill.qty if fill else Decimal(0)),
            "Q": amount(order.quote_qty), "W": order.time_ms, "V": "EXPIRE_MAKER",
        }  # fmt: skip
        self._push(event)

    def _event_id(self, report: Report) -> int:
        """Return an id unique per event of a symbol; fills have odd multiples, states even ones."""
        if report.fill is not None:
            return 2 * report.fill.execution_id + 1
        return 2 * (report.order.order_id * 8 + len(report.kind))
