"""The SQL schema, one for SQLite and Postgres. Migrations make it; a test compares the two."""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Moments are seconds since 1970 (UTC) as double precision. Ids are UUIDv7 made by the server."""

_Json: Final = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

users: Final = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Folded to lower case by the account store: one person, one account.
    Column("email", String(320), nullable=False, unique=True),
    Column("name", String(200), nullable=False),
    Column("password_hash", String(200), nullable=False),
    Column("platform_role", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
)

# A sign-in, and the family of the refresh tokens that descend from it.
sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)

refresh_tokens: Final = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary(32), primary_key=True),
    Column("session_id", Uuid, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("expires_at", Double, nullable=False),
    # Set when the token was traded for its successor: showing it again later means that someone copied it.
    Column("used_at", Double),
)

courses: Final = Table(
    "courses",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("title", String(300), nullable=False),
    Column("visibility", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    # The projection of the course's document, and the Seq up to which the log went into it.
    Column("graph", _Json),
    Column("graph_seq", BigInteger),
    # Only on PostgreSQL; jsonb_path_ops answers containment (@>) from a third of the space.
    Index("ix_courses_graph", "graph", postgresql_using="gin", postgresql_ops={"graph": "jsonb_path_ops"}).ddl_if(
        dialect="postgresql"
    ),
)

course_members: Final = Table(
    "course_members",
    metadata,
    Column("course_id", Uuid, ForeignKey("courses.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", String(16), nullable=False),
    Column("added_at", Double, nullable=False),
)

documents: Final = Table(
    "documents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("course_id", Uuid, ForeignKey("courses.id"), nullable=False, index=True),
    # "{course}", "{course}/body/{node}" or "{course}/review": what stands behind /sync/.
    Column("name", String(64), nullable=False, unique=True),
    Column("lineage", Uuid, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("head_seq", BigInteger, nullable=False),
    Column("head_commit", BigInteger, nullable=False),
    Column("derived_seq", BigInteger, nullable=False),
    # Up to here segments cover the log; up to here every update row is purged. The sweeper looks for work by them.
    Column("covered_seq", BigInteger, nullable=False, server_default="0"),
    Column("purged_seq", BigInteger, nullable=False, server_default="0"),
    # Why writes are refused for now, such as a damaged row that awaits repair; NULL: they are not.
    Column("read_only_reason", String(64)),
    Column("created_at", Double, nullable=False),
)

# Clustered by document on SQLite: a document's tail is read in one sweep.
document_updates: Final = Table(
    "document_updates",
    metadata,
    Column("document_id", Uuid, ForeignKey("documents.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
    # No foreign key: the log outlives the people who wrote it.
    Column("user_id", Uuid),
    # Indexed alone: looking up a batch is then one probe per append, not one per pair of document and commit.
    Column("commit_id", BigInteger, nullable=False, index=True),
    Column("saved_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

document_segments: Final = Table(
    "document_segments",
    metadata,
    Column("document_id", Uuid, ForeignKey("documents.id"), primary_key=True),
    Column("first_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("summary", LargeBinary, nullable=False),
    Column("saved_at", Double, nullable=False),
)

document_clients: Final = Table(
    "document_clients",
    metadata,
    Column("document_id", Uuid, ForeignKey("documents.id"), primary_key=True),
    Column("client_id", BigInteger, primary_key=True, autoincrement=False),
    # In the key: that two users wrote under one client id is exactly what an alarm wants to see.
    Column("user_id", Uuid, primary_key=True),
    Column("bound_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

stranded_changes: Final = Table(
    "stranded_changes",
    metadata,
    # No foreign keys: a refused write is kept whatever became of its document and its writer.
    Column("document_id", Uuid, primary_key=True),
    Column("user_id", Uuid, primary_key=True),
    Column("client_id", BigInteger, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("kept_at", Double, nullable=False),
)

# Update rows that repair took out of a log, as they were, and why.
quarantined_updates: Final = Table(
    "quarantined_updates",
    metadata,
    Column("document_id", Uuid, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
    Column("user_id", Uuid),
    Column("commit_id", BigInteger, nullable=False),
    Column("saved_at", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("quarantined_at", Double, nullable=False),
)

# What happened, for statistics. PostgreSQL keeps a table for each month (storage/partitions.py), so the time is in the key.
analytics_events: Final = Table(
    "analytics_events",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("at", Double, primary_key=True),
    Column("course_id", Uuid, nullable=False),
    Column("user_id", Uuid),
    Column("kind", String(32), nullable=False),
    Column("payload", _Json, nullable=False),
    Index("ix_analytics_events_course_id_at", "course_id", "at"),
    postgresql_partition_by="RANGE (at)",
)

# Which instance does a job that one must do at a time, and until when it may (storage/leases.py).
leases: Final = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", Double, nullable=False),
)
