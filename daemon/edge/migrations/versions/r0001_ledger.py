"""The schema that the first ledgers had, made by hand before revisions were kept."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

AMOUNT = sa.String(64)


def serial() -> "sa.Column[int]":
    """Return a primary key that counts up; on SQLite only INTEGER does that."""
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True)


def needed(name: str, kind: Any) -> "sa.Column[Any]":
    """Return a column that is never NULL."""
    return sa.Column(name, kind, nullable=False)


def upgrade() -> None:
    """Make the tables."""
    op.create_table("meta", sa.Column("key", sa.String(64), primary_key=True), needed("value", sa.Text))
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(128), primary_key=True),
        needed("epoch", sa.BigInteger),
        needed("record", sa.Text),
        needed("ts_ns", sa.BigInteger),
    )
    _intents()
    op.create_table(
        "refusals",
        serial(),
        needed("decision", sa.String(128)),
        needed("client_id", sa.String(36)),
        needed("symbol", sa.String(32)),
        needed("side", sa.String(4)),
        needed("qty", AMOUNT),
        needed("limit_price", AMOUNT),
        needed("reason", sa.String(32)),
        needed("detail", sa.Text),
        needed("ts_ns", sa.BigInteger),
    )
    _money()
    op.create_table("state", sa.Column("key", sa.String(32), primary_key=True), needed("value", sa.Text))
    op.create_table(
        "order_events",
        serial(),
        needed("client_id", sa.String(36)),
        needed("symbol", sa.String(32)),
        needed("state", sa.String(16)),
        needed("venue_id", sa.String(64)),
        needed("filled", AMOUNT),
        needed("code", sa.String(128)),
        needed("source", sa.String(16)),
        needed("ts_ns", sa.BigInteger),
    )
    op.create_index("ix_order_events_client_id", "order_events", ["client_id"])


def _intents() -> None:
    op.create_table(
        "intents",
        sa.Column("client_id", sa.String(36), primary_key=True),
        needed("decision", sa.String(128)),
        needed("leg", sa.Integer),
        needed("symbol", sa.String(32)),
        needed("side", sa.String(4)),
        needed("qty", AMOUNT),
        needed("limit_price", AMOUNT),
        needed("tif", sa.String(8)),
        needed("cause", sa.String(32)),
        needed("is_exit", sa.Boolean),
        needed("reference", AMOUNT),
        needed("ts_ns", sa.BigInteger),
        needed("expires_ns", sa.BigInteger),
        needed("approved_ns", sa.BigInteger),
        needed("state", sa.String(16)),
        needed("venue_id", sa.String(64)),
        needed("filled", AMOUNT),
        needed("code", sa.String(128)),
        needed("updated_ns", sa.BigInteger),
        needed("epoch", sa.BigInteger),
        needed("config_hash", sa.String(64)),
        needed("model_hash", sa.String(64)),
        needed("code_version", sa.String(64)),
        sa.UniqueConstraint("decision", "leg", name="one_intent_per_decision_and_leg"),
    )
    op.create_index("ix_intents_symbol", "intents", ["symbol"])
    op.create_index("ix_intents_state", "intents", ["state"])


def _money() -> None:
    op.create_table(
        "fills",
        serial(),
        needed("book", sa.Integer),
        needed("symbol", sa.String(32)),
        needed("trade_id", sa.String(64)),
        needed("client_id", sa.String(36)),
        needed("venue_id", sa.String(64)),
        needed("side", sa.String(4)),
        needed("qty", AMOUNT),
        needed("price", AMOUNT),
        needed("fee", AMOUNT),
        needed("fee_asset", sa.String(32)),
        needed("maker", sa.Boolean),
        needed("ts_event_ns", sa.BigInteger),
        needed("source", sa.String(16)),
        sa.UniqueConstraint("book", "symbol", "trade_id", name="one_fill_per_trade"),
    )
    op.create_index("ix_fills_client_id", "fills", ["client_id"])
    op.create_table(
        "flows",
        serial(),
        needed("book", sa.Integer),
        needed("asset", sa.String(32)),
        needed("amount", AMOUNT),
        needed("ours", sa.Boolean),
        needed("detail", sa.Text),
        needed("ts_ns", sa.BigInteger),
    )


def downgrade() -> None:
    """Refuse: nothing that remembers orders is ever dropped by a program."""
    raise NotImplementedError("a ledger is not taken back; restore a backup")
