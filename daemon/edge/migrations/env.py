"""Executed by Alembic (``daemon.edge.migrate`` calls it): runs the revisions on the connection it was handed.

The caller began the transaction and ends it; an ``alembic.ini`` is not needed and does not exist.
"""

from alembic import context

from daemon.edge import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables.META)
context.run_migrations()
