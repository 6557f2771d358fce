"""How far jobs have come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add a column, empty for what older workers queue and run."""
    op.add_column("jobs", sa.Column("progress", sa.LargeBinary))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("jobs", "progress")
