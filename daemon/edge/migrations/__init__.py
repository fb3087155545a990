"""Alembic revisions of the ledger's schema, oldest first; they lie in the wheel and are applied at every start."""
