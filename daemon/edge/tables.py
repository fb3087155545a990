"""Tables of the ledger: one schema for SQLite and PostgreSQL, money as exact decimal text.

``book`` numbers the accounts that one ledger has served in turn (another venue, key or quote begins a new book);
balances follow from the rows of the current one.
"""

from decimal import Decimal
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect

SCHEMA_VERSION: Final = 1
"""Raised with every change of the tables below; versions from before the revisions refuse a higher one by it."""
REVISION: Final = "0001"
"""The newest revision in ``daemon/edge/migrations``; it makes exactly these tables."""

WORDS_MAX: Final = 100_000
"""Longest text of others that a row keeps, characters."""

META = MetaData()


class Exact(TypeDecorator[Decimal]):
    """A Decimal stored as plain text, so that no database rounds it."""

    impl = String(64)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        """Write the shortest plain notation that keeps every digit; refuses NaN and infinity."""
        if value is None:
            return None
        if not value.is_finite():
            raise ValueError(f"ledger: {value} is not an amount")
        return format(value, "f")

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        """Read the amount back."""
        return None if value is None else Decimal(value)


class Words(TypeDecorator[str]):
    """Text that others wrote, made such that every database takes it: a word too long must not cost the row (a fill, a fate)."""

    impl = String
    cache_ok = True
    length = WORDS_MAX

    def __init__(self, length: int) -> None:
        """Keep at most ``length`` characters."""
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace NUL and lone surrogates, which no server stores, and cut the rest off."""
        if value is None:
            return None
        if "\0" in value or not value.isascii():
            value = value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        return value[: self.length]


class Prose(Words):
    """The same without a bound in the database."""

    impl = Text
    cache_ok = True

    def __init__(self) -> None:
        """Keep at most ``WORDS_MAX`` characters."""
        TypeDecorator.__init__(self)


def serial() -> Column[int]:
    """Return a primary key that counts up; on SQLite only INTEGER does that."""
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


meta = Table("meta", META, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))

decisions = Table(
    "decisions",
    META,
    Column("id", String(128), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    Column("ts_ns", BigInteger, nullable=False),
)

intents = Table(
    "intents",
    META,
    Column("client_id", String(36), primary_key=True),
    Column("decision", String(128), nullable=False),
    Column("leg", Integer, nullable=False),
    Column("symbol", String(32), nullable=False, index=True),
    Column("side", String(4), nullable=False),
    Column("qty", Exact, nullable=False),
    Column("limit_price", Exact, nullable=False),
    Column("tif", String(8), nullable=False),
    Column("cause", String(32), nullable=False),
    Column("is_exit", Boolean, nullable=False),
    Column("reference", Exact, nullable=False),
    Column("ts_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("approved_ns", BigInteger, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("venue_id", String(64), nullable=False),
    Column("filled", Exact, nullable=False),
    Column("code", Words(128), nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("config_hash", String(64), nullable=False),
    Column("model_hash", String(64), nullable=False),
    Column("code_version", String(64), nullable=False),
    UniqueConstraint("decision", "leg", name="one_intent_per_decision_and_leg"),
)

refusals = Table(
    "refusals",
    META,
    serial(),
    Column("decision", String(128), nullable=False),
    Column("client_id", String(36), nullable=False),
    Column("symbol", String(32), nullable=False),
    Column("side", String(4), nullable=False),
    Column("qty", Exact, nullable=False),
    Column("limit_price", Exact, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("detail", Prose, nullable=False),
    Column("ts_ns", BigInteger, nullable=False),
)

fills = Table(
    "fills",
    META,
    serial(),
    Column("book", Integer, nullable=False),
    Column("symbol", String(32), nullable=False),
    Column("trade_id", String(64), nullable=False),
    Column("client_id", String(36), nullable=False, index=True),
    Column("venue_id", String(64), nullable=False),
    Column("side", String(4), nullable=False),
    Column("qty", Exact, nullable=False),
    Column("price", Exact, nullable=False),
    Column("fee", Exact, nullable=False),
    Column("fee_asset", String(32), nullable=False),
    Column("maker", Boolean, nullable=False),
    Column("ts_event_ns", BigInteger, nullable=False),
    Column("source", String(16), nullable=False),
    UniqueConstraint("book", "symbol", "trade_id", name="one_fill_per_trade"),
)

flows = Table(
    "flows",
    META,
    serial(),
    Column("book", Integer, nullable=False),
    Column("asset", String(32), nullable=False),
    Column("amount", Exact, nullable=False),
    Column("ours", Boolean, nullable=False),
    Column("detail", Prose, nullable=False),
    Column("ts_ns", BigInteger, nullable=False),
)

state = Table(
    "state",
    META,
    Column("key", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)

order_events = Table(
    "order_events",
    META,
    serial(),
    Column("client_id", String(36), nullable=False, index=True),
    Column("symbol", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("venue_id", String(64), nullable=False),
    Column("filled", Exact, nullable=False),
    Column("code", Words(128), nullable=False),
    Column("source", String(16), nullable=False),
    Column("ts_ns", BigInteger, nullable=False),
)
