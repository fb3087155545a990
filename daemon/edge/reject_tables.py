"""Codes of the venues that prove an order was never placed: data only, one table per venue (FAULTS 1.1, 1.2).

Sources: the venues' published error lists and the exception tables of ccxt 4.5.90. A code is listed only when its
meaning is a check made before the order could rest or match. Everything that speaks of the inside of the venue
(internal errors, timeouts, busy services, "create order failed") is left out on purpose, and so is every code that
an order which exists can get too ("filled", "cancelled", "not found"). What is not listed leaves the fate unknown.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from daemon.edge.outcomes import Act


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What one venue's codes prove.

    ``definite`` codes mean REJECTED. ``not_placed`` codes mean that the request was turned away before anybody looked at the
    order: not sent, as far as the venue is concerned; the value is what must follow. ``pause_s`` holds pauses longer than the
    usual one, seconds by code. ``families`` are codes that carry a detail behind one more colon. ``duplicates`` mean that an
    order of this client id exists or existed: query. ``statuses`` are HTTP statuses that say enough without a body.
    """

    definite: Mapping[str, Act]
    not_placed: Mapping[str, Act]
    duplicates: frozenset[str]
    families: frozenset[str] = frozenset()
    pause_s: Mapping[str, float] = {}
    statuses: Mapping[int, Act] = {}


def _all(act: Act, *codes: str) -> dict[str, Act]:
    return dict.fromkeys(codes, act)


KRAKEN: Final = Table(
    definite={
        **_all(
            Act.NONE,
            "EGeneral:Invalid arguments",
            "EGeneral:Invalid arguments:price",
            "EGeneral:Invalid arguments:volume",
            "EGeneral:Invalid arguments:viqc",
            "EGeneral:Invalid arguments:ordertype",
            "EGeneral:Invalid arguments:Index unavailable",
            "EGeneral:Unknown method",
            "EAPI:Bad request",
            "EOrder:Invalid order",
            "EOrder:Insufficient funds",
            "EOrder:Insufficient margin",
            "EOrder:Cannot open position",
            "EOrder:Cannot open opposing position",
            "EOrder:Margin allowance exceeded",
            "EOrder:Margin level too low",
            "EOrder:Margin position size exceeded",
            "EOrder:Orders limit exceeded",
            "EOrder:Positions limit exceeded",
            "EOrder:Post only order",
            "EOrder:Trading agreement required",
            "EOrder:Reduce only",
            "EService:Market in cancel_only mode",
            "EService:Market in post_only mode",
        ),
        **_all(
            Act.RELOAD,
            "EOrder:Order minimum not met",
            "EOrder:Cost minimum not met",
            "EOrder:Tick size check failed",
            "EOrder:Invalid price",
            "EQuery:Unknown asset pair",
            "EQuery:Invalid asset pair",
            "EQuery:Unknown asset",
        ),
        **_all(
            Act.STOP,
            "EAPI:Invalid key",
            "EAPI:Invalid signature",
            "EGeneral:Permission denied",
            "EAccount:Invalid permissions",
            "EAuth:Account temporary disabled",
            "EAuth:Account unconfirmed",
            "ETrade:User Locked",
        ),
    },
    not_placed={
        **_all(
            Act.BACK_OFF,
            "EAPI:Rate limit exceeded",
            "EOrder:Rate limit exceeded",
            "EOrder:Domain rate limit exceeded",
            "EAuth:Rate limit exceeded",
            "EAuth:Too many requests",
            "EGeneral:Too many requests",
            "EGeneral:Temporary lockout",
            "EService:Throttled",
        ),
        **_all(Act.RESYNC, "EAPI:Invalid nonce"),
    },
    duplicates=frozenset(),
    families=frozenset(
        {"EOrder:Reduce only", "EOrder:Invalid price", "EService:Throttled", "EAccount:Invalid permissions"}
    ),
    pause_s={"EGeneral:Temporary lockout": 900.0},
)
"""Left out: EService:Unavailable, :Busy and :Deadline elapsed, EGeneral:Internal error: the order may have been taken."""

COINBASE: Final = Table(
    definite={
        **_all(
            Act.NONE,
            "UNSUPPORTED_ORDER_CONFIGURATION",
            "INVALID_SIDE",
            "INSUFFICIENT_FUND",
            "INSUFFICIENT_FUNDS",
            "INVALID_LEDGER_BALANCE",
            "ORDER_ENTRY_DISABLED",
            "INVALID_LIMIT_PRICE_POST_ONLY",
            "INVALID_LIMIT_PRICE",
            "INVALID_NO_LIQUIDITY",
            "INVALID_REQUEST",
            "INVALID_ARGUMENT",
            "PREVIEW_INSUFFICIENT_FUND",
            "PREVIEW_INSUFFICIENT_LEDGER_BALANCE",
            "PREVIEW_INVALID_LEDGER_BALANCE",
            "PREVIEW_INVALID_LIMIT_PRICE",
            "PREVIEW_INVALID_LIMIT_PRICE_POST_ONLY",
            "PREVIEW_INVALID_NO_LIQUIDITY",
            "PREVIEW_INVALID_ORDER_CONFIG",
            "PREVIEW_INVALID_SIDE",
            "PREVIEW_INVALID_STOP_PRICE",
            "PREVIEW_STOP_PRICE_ABOVE_LAST_TRADE_PRICE",
            "PREVIEW_STOP_PRICE_BELOW_LAST_TRADE_PRICE",
            "PREVIEW_LIMIT_PRICE_TOO_FAR_FROM_MARKET",
            "PREVIEW_MISSING_MARKET_TRADE_DATA",
            "PREVIEW_MISSING_PRODUCT_PRICE_BOOK",
            "param_required",
            "validation_error",
            "invalid_request",
        ),
        **_all(
            Act.RELOAD,
            "INVALID_PRODUCT_ID",
            "INELIGIBLE_PAIR",
            "INVALID_SIZE_PRECISION",
            "INVALID_PRICE_PRECISION",
            "PREVIEW_INVALID_PRODUCT_ID",
            "PREVIEW_INVALID_SIZE_PRECISION",
            "PREVIEW_INVALID_PRICE_PRECISION",
            "PREVIEW_INVALID_QUOTE_SIZE_PRECISION",
            "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL",
            "PREVIEW_INVALID_BASE_SIZE_TOO_LARGE",
            "PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL",
            "PREVIEW_INVALID_QUOTE_SIZE_TOO_LARGE",
            "PREVIEW_INVALID_PRICE_TOO_LARGE",
        ),
        **_all(
            Act.STOP,
            "PERMISSION_DENIED",
            "UNAUTHENTICATED",
            "unauthorized",
            "authentication_error",
            "invalid_token",
            "revoked_token",
            "expired_token",
            "invalid_scope",
        ),
    },
    not_placed={**_all(Act.BACK_OFF, "rate_limit_exceeded", "resource_exhausted", "RESOURCE_EXHAUSTED")},
    duplicates=frozenset(),
    statuses={401: Act.STOP, 429: Act.BACK_OFF},
)
"""Left out: UNKNOWN_FAILURE_REASON alone, COMMANDER_REJECTED_NEW_ORDER, internal_server_error. 401 comes as plain text.
A repeated client id is no error there: the answer names the order that exists."""

BYBIT: Final = Table(
    definite={
        **_all(
            Act.NONE,
            "10001",  # parameter error
            "10017",  # path or method
            "10020",  # not a unified account
            "10028",
            "110003",  # price out of range
            "110004",  # wallet balance
            "110007",  # available balance
            "110012",
            "110020",  # too many active orders
            "110044",
            "110045",
            "110051",
            "110052",
            "110053",
            "110066",  # no trading now
            "110094",  # notional below the limit
            "131001",  # balance does not cover the fee
            "170010",  # position limits of leveraged and innovation tokens
            "170011",
            "170019",
            "170033",
            "170034",
            "170036",
            "170037",
            "170105",
            "170115",
            "170116",
            "170117",
            "170124",
            "170130",
            "170131",  # balance
            "170132",
            "170133",
            "170135",
            "170136",
            "170148",
            "170151",  # the pair is not open yet
            "170157",  # the pair is not for the API
            "170159",
            "170192",
            "170193",
            "170194",
            "170197",
            "170198",
            "170199",
            "170200",
            "170202",
            "170203",
            "170204",
            "170206",
            "170209",
            "170210",  # new order rejected
            "170217",
            "170218",
            "170223",
            "170224",
            "170226",
            "170227",
            "170228",
            "170229",
            "170241",
            "170371",
            "170372",
        ),
        **_all(
            Act.RELOAD,
            "10029",  # symbol not on the list
            "170121",  # symbol
            "170134",  # price decimals
            "170137",  # quantity decimals
            "170140",  # notional below the minimum
            "170221",  # coin
        ),
        **_all(
            Act.STOP,
            "10003",  # key
            "10004",  # signature
            "10005",  # permission
            "10007",
            "10008",  # account banned
            "10009",  # address banned
            "10010",  # address not on the key's list
            "10024",
            "10027",  # trading banned
            "33004",  # key expired
            "170201",  # account restricted
        ),
    },
    not_placed={
        **_all(Act.BACK_OFF, "10006", "10018", "170005", "170222"),
        **_all(Act.RESYNC, "10002"),
    },
    duplicates=frozenset({"10014", "12141", "30001", "110030", "110072", "170141"}),
    pause_s={"10018": 600.0},
)
"""Left out: 10000, 10016, 170001, 170007, 170032, 170035 ("submitted to the system"), 170146 (creation timeout), 170149,
170234; and 170139, 170142, 170143, 170213, which speak of an order that exists. Its 403 has no body to go by."""

OKX: Final = Table(
    definite={
        **_all(
            Act.NONE,
            "50000",  # body, parameters
            "50002",
            "50006",
            "50014",
            "50015",
            "50016",
            "50024",
            "50025",
            "51000",
            "51003",
            "51004",
            "51005",
            "51006",
            "51008",  # balance
            "51010",  # account mode
            "51017",
            "51023",
            "51025",  # number of orders
            "51031",
            "51046",
            "51047",
            "51051",
            "51101",
            "51102",
            "51103",
            "51104",
            "51105",
            "51106",
            "51107",
            "51109",
            "51110",
            "51112",
            "51115",
            "51116",
            "51117",
            "51119",
            "51124",
            "51127",
            "51129",
            "51131",
            "51135",
            "51136",
            "51137",
            "51138",
            "51155",
            "51174",
            "51185",
            "51201",
            "51202",
            "51203",
            "51204",
            "54008",
            "54094",
        ),
        **_all(
            Act.RELOAD,
            "51001",  # instrument
            "51002",
            "51012",
            "51015",
            "51020",  # amount below the minimum
            "51021",  # not listed yet
            "51022",  # suspended
            "51026",
            "51027",
            "51028",
            "51100",
            "51118",
            "51120",
            "51121",  # lot size
            "51122",
        ),
        **_all(
            Act.STOP,
            "50007",  # account blocked
            "50008",
            "50009",
            "50027",  # restricted from trading
            "50100",  # API frozen
            "50101",  # key of another environment
            "50103",
            "50104",
            "50105",
            "50106",
            "50107",
            "50110",  # address not on the key's list
            "50111",
            "50113",
            "50114",
            "51009",  # ordering is blocked by the platform
            "51024",
            "59113",
        ),
    },
    not_placed={
        **_all(Act.BACK_OFF, "50011", "50061"),
        **_all(Act.RESYNC, "50102", "50112"),
    },
    duplicates=frozenset({"51011", "51016"}),
)
"""Left out: 50001 (engine upgrade), 50004 ("does not indicate success or failure of order"), 50005, 50013, 50026, 51149."""
