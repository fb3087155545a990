"""What the exchange answers when it refuses: Binance's codes, texts and HTTP statuses."""

from collections.abc import Mapping
from typing import Final

__all__ = ["ApiError", "filter_failure", "illegal", "missing", "rejected"]


class ApiError(Exception):
    """A refusal that the client sees as ``{"code": code, "msg": text}``."""

    def __init__(self, code: int, text: str, *, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        """Hold Binance's code, its text, the HTTP status and further headers."""
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text
        self.status = status
        self.headers = dict(headers or {})


BAD_SYMBOL: Final = (-1121, "Invalid symbol.")
NO_SUCH_ORDER: Final = (-2013, "Order does not exist.")
CANCEL_REJECTED: Final = (-2011, "Unknown order sent.")
BAD_KEY_FORMAT: Final = (-2014, "API-key format invalid.")
REJECTED_KEY: Final = (-2015, "Invalid API-key, IP, or permissions for action.")
BAD_SIGNATURE: Final = (-1022, "Signature for this request is not valid.")
BAD_RECV_WINDOW: Final = (-1131, "recvWindow must be less than 60000.")
TOO_EARLY: Final = (-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
TOO_LATE: Final = (-1021, "Timestamp for this request is outside of the recvWindow.")
INSUFFICIENT: Final = "Account has insufficient balance for requested action."
DUPLICATE: Final = "Duplicate order sent."
WOULD_MATCH: Final = "Order would immediately match and take."
MARKET_CLOSED: Final = "Market is closed."


def missing(name: str) -> ApiError:
    """Build the answer to a parameter that is absent or empty."""
    return ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def illegal(name: str, legal: str = r"^([0-9]{1,20})(\.[0-9]{1,20})?$") -> ApiError:
    """Build the answer to a parameter with characters outside its legal range."""
    return ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def filter_failure(name: str) -> ApiError:
    """Build the answer to an order that a symbol's filter refuses."""
    return ApiError(-1013, f"Filter failure: {name}")


def rejected(text: str) -> ApiError:
    """Build the answer to an order that the matching engine refuses."""
    return ApiError(-2010, text)
