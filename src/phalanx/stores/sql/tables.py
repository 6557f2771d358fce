"""The tables of this version's schema. The migrations build them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("hint", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("organisation", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("digest"),
    Index(None, "organisation", "created_at"),
)

# Ids are UUIDv7, so that without a row id of its own SQLite appends to one tree and keeps the events in time's order.
# The index answers the sums of an organisation and, alone, the counts that quotas start from.
usage_events = Table(
    "usage_events",
    metadata,
    Column("id", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("organisation", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cached", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("latency_ms", Double, nullable=False),
    PrimaryKeyConstraint("id"),
    Index(None, "organisation", "at", "status"),
    sqlite_with_rowid=False,
)
