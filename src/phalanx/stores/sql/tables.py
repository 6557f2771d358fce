"""The tables of this version's schema. The migrations build them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    true,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
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
    Column("last_used_at", Double),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("digest"),
    Index(None, "organisation", "created_at"),
)

organisations = Table(
    "organisations",
    metadata,
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    PrimaryKeyConstraint("id"),
)

users = Table(
    "users",
    metadata,
    Column("id", String(64), nullable=False),
    Column("email", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("staff", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("disabled_at", Double),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("email"),
)

members = Table(
    "members",
    metadata,
    Column("organisation", Text, ForeignKey("organisations.id"), nullable=False),
    Column("user_id", String(64), ForeignKey("users.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("joined_at", Double, nullable=False),
    PrimaryKeyConstraint("organisation", "user_id"),
    Index(None, "user_id"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(64), nullable=False),
    Column("user_id", String(64), ForeignKey("users.id"), nullable=False),
    Column("organisation", Text, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("refreshed_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("ended_at", Double),
    PrimaryKeyConstraint("id"),
    Index(None, "user_id", "created_at"),
    Index(None, "expires_at"),
)

# The version of the feed is the row's number. Writers on PostgreSQL take turns (an advisory lock), so that numbers become
# visible in their order and a reader that asks for what is newer than the newest it saw misses none.
changes = Table(
    "changes",
    metadata,
    Column("version", BigInteger().with_variant(Integer, "sqlite"), autoincrement=True, nullable=False),
    Column("subject", Text, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("version"),
    Index(None, "at"),
    sqlite_autoincrement=True,
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("organisation", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    PrimaryKeyConstraint("id"),
    Index(None, "organisation", "id"),
)

# Ids are UUIDv7, so that without a row id of its own SQLite appends to one tree and keeps the events in time's order.
# PostgreSQL has a partition for each day inside the id, which makes the id alone decide where an event lies: ids stay
# unique over all partitions, and a day that is no longer wanted is dropped, not deleted row by row. Bounds are compared
# byte by byte (collation C), whatever language the database speaks.
usage_events = Table(
    "usage_events",
    metadata,
    Column("id", String(64).with_variant(String(64, collation="C"), "postgresql"), nullable=False),
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
    Column("user_id", Text, nullable=False, server_default=""),
    Column("request_id", Text, nullable=False, server_default=""),
    Column("billed", Boolean, nullable=False, server_default=true()),
    Column("simulated", Boolean, nullable=False, server_default=false()),
    Column("day", String(10), nullable=False, server_default=""),
    PrimaryKeyConstraint("id"),
    Index(None, "organisation", "at", "status"),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (id)",
)

# Sums by UTC day of the event's id. Moved with the events, in one transaction, by those that were new.
usage_daily = Table(
    "usage_daily",
    metadata,
    Column("day", String(10), nullable=False),
    Column("organisation", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("billed", BigInteger, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cached", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    PrimaryKeyConstraint("day", "organisation", "key_id", "operation", "model"),
    Index(None, "organisation", "day"),
    sqlite_with_rowid=False,
)

# How far the journal of each live process has reached the ledger: what `complete_until` is the least of.
usage_writers = Table(
    "usage_writers",
    metadata,
    Column("journal", Text, nullable=False),
    Column("complete_until", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    PrimaryKeyConstraint("journal"),
)

# Days whose events were let go: their sums stand alone.
usage_expired = Table(
    "usage_expired",
    metadata,
    Column("day", String(10), nullable=False),
    PrimaryKeyConstraint("day"),
)

# Organisations and names are put in order byte by byte (collation C), whatever language the database speaks.
collections = Table(
    "collections",
    metadata,
    Column("organisation", Text().with_variant(Text(collation="C"), "postgresql"), nullable=False),
    Column("name", Text().with_variant(Text(collation="C"), "postgresql"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("contract", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("next_place", Text, nullable=False),
    Column("next_contract", Text, nullable=False),
    PrimaryKeyConstraint("organisation", "name"),
)

# Jobs of a worker without Redis. Indexes are for claiming, and for an organisation's list.
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), nullable=False),
    Column("organisation", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("stalled", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("leased_until", Double, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("billed_at", Double),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("result", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("progress", LargeBinary),
    PrimaryKeyConstraint("id"),
    Index(None, "state", "priority", "due_at"),
    Index(None, "organisation", "made_at"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(200), nullable=False),
    Column("url", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("due_at", Double, nullable=False),
    PrimaryKeyConstraint("id"),
    Index(None, "due_at"),
)
