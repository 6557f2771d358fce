"""Collections of points, and the places where their points are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    in_order = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "collections",
        sa.Column("organisation", in_order, nullable=False),
        sa.Column("name", in_order, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("contract", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("next_place", sa.Text, nullable=False),
        sa.Column("next_contract", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("organisation", "name", name="pk_collections"),
    )


def downgrade() -> None:
    """Drop it. The points stay in the store of vectors."""
    op.drop_table("collections")
