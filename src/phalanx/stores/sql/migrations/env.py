"""Run the wanted revisions on the connection, and within the transaction, that `database.py` hands over."""

from __future__ import annotations

from alembic import context

from phalanx.stores.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
