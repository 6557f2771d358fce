"""Organisations, users, sessions, the change feed, the audit log, and daily sums of usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables; give every organisation that owns a key a record, and sum up the usage there is."""
    op.create_table(
        "organisations",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organisations"),
    )
    _users()
    _watched()
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("last_used_at", sa.Double))
    _events()
    _sums()
    op.execute(
        sa.text(
            "INSERT INTO organisations (id, name, tier, created_at) "
            "SELECT organisation, organisation, min(tier), min(created_at) FROM api_keys GROUP BY organisation"
        )
    )


def _users() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("staff", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("disabled_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "members",
        sa.Column("organisation", sa.Text, nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("joined_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("organisation", "user_id", name="pk_members"),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_members_organisation"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_members_user_id"),
    )
    op.create_index("ix_members_user_id", "members", ["user_id"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("organisation", sa.Text, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("refreshed_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sessions_user_id"),
    )
    op.create_index("ix_sessions_user_id_created_at", "sessions", ["user_id", "created_at"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])


def _watched() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "changes",
        sa.Column("version", number, autoincrement=True, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_changes"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_changes_at", "changes", ["at"])
    op.create_table(
        "audit_log",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("organisation", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_organisation_id", "audit_log", ["organisation", "id"])


def _events() -> None:
    for column in (
        sa.Column("user_id", sa.Text, nullable=False, server_default=""),
        sa.Column("request_id", sa.Text, nullable=False, server_default=""),
        sa.Column("billed", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("simulated", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("day", sa.String(10), nullable=False, server_default=""),
    ):
        op.add_column("usage_events", column)
    if op.get_bind().dialect.name == "postgresql":
        day = "to_char(to_timestamp(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
        # What fits no day's partition lands here.
        op.execute(sa.text("CREATE TABLE IF NOT EXISTS usage_events_default PARTITION OF usage_events DEFAULT"))
    else:
        day = "date(at, 'unixepoch')"
    op.execute(sa.text(f"UPDATE usage_events SET billed = (status = 'ok'), day = {day}"))  # noqa: S608 -- our own words


def _sums() -> None:
    op.create_table(
        "usage_daily",
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("organisation", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("billed", sa.BigInteger, nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cached", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "organisation", "key_id", "operation", "model", name="pk_usage_daily"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_daily_organisation_day", "usage_daily", ["organisation", "day"])
    op.create_table(
        "usage_writers",
        sa.Column("journal", sa.Text, nullable=False),
        sa.Column("complete_until", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("journal", name="pk_usage_writers"),
    )
    op.create_table(
        "usage_expired",
        sa.Column("day", sa.String(10), nullable=False),
        sa.PrimaryKeyConstraint("day", name="pk_usage_expired"),
    )
    op.execute(
        sa.text(
            "INSERT INTO usage_daily SELECT day, organisation, key_id, operation, model, count(*), "
            "count(*) FILTER (WHERE billed), sum(units), sum(tokens), sum(cached), "
            "count(*) FILTER (WHERE status <> 'ok') FROM usage_events GROUP BY 1, 2, 3, 4, 5"
        )
    )


def downgrade() -> None:
    """Drop what was made; keys and events stay."""
    for table in (
        "usage_expired",
        "usage_writers",
        "usage_daily",
        "audit_log",
        "changes",
        "sessions",
        "members",
        "users",
        "organisations",
    ):
        op.drop_table(table)
    with op.batch_alter_table("usage_events") as events:
        for column in ("user_id", "request_id", "billed", "simulated", "day"):
            events.drop_column(column)
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_column("last_used_at")
