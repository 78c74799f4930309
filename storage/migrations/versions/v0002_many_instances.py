"""What many instances on one database need: sweeping, repair, leases; the course graph as JSON; events by month."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    on_postgres = op.get_context().dialect.name == "postgresql"
    with op.batch_alter_table("documents") as documents:
        documents.add_column(sa.Column("covered_seq", sa.BigInteger(), nullable=False, server_default="0"))
        documents.add_column(sa.Column("purged_seq", sa.BigInteger(), nullable=False, server_default="0"))
        documents.add_column(sa.Column("read_only_reason", sa.String(length=64), nullable=True))
    with op.batch_alter_table("courses") as courses:
        courses.add_column(sa.Column("graph", JSON, nullable=True))
        courses.add_column(sa.Column("graph_seq", sa.BigInteger(), nullable=True))
    if on_postgres:
        op.create_index(
            "ix_courses_graph",
            "courses",
            ["graph"],
            postgresql_using="gin",
            postgresql_ops={"graph": "jsonb_path_ops"},
        )
        # Every append rewrites a document's row: room on its page keeps the new version beside the old, out of the indexes.
        op.execute("ALTER TABLE documents SET (fillfactor = 70)")
    _fill_places()

    op.create_table(
        "quarantined_updates",
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("commit_id", sa.BigInteger(), nullable=False),
        sa.Column("saved_at", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("quarantined_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("document_id", "seq", name=op.f("pk_quarantined_updates")),
    )
    op.create_table(
        "analytics_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("course_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", "at", name=op.f("pk_analytics_events")),
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index(op.f("ix_analytics_events_course_id_at"), "analytics_events", ["course_id", "at"], unique=False)
    if on_postgres:
        op.execute("CREATE TABLE analytics_events_default PARTITION OF analytics_events DEFAULT")
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )


def _fill_places() -> None:
    """Note for each document how far segments cover its log, and up to where its rows are gone."""
    op.execute(
        "UPDATE documents SET covered_seq = coalesce("
        "(SELECT max(last_seq) FROM document_segments WHERE document_id = documents.id), 0)"
    )
    op.execute(
        "UPDATE documents SET purged_seq = coalesce("
        "(SELECT min(seq) - 1 FROM document_updates WHERE document_id = documents.id AND seq <= documents.covered_seq),"
        " covered_seq)"
    )


def downgrade() -> None:
    op.drop_table("leases")
    op.drop_table("analytics_events")
    op.drop_table("quarantined_updates")
    if op.get_context().dialect.name == "postgresql":
        op.drop_index("ix_courses_graph", table_name="courses")
    with op.batch_alter_table("courses") as courses:
        courses.drop_column("graph_seq")
        courses.drop_column("graph")
    with op.batch_alter_table("documents") as documents:
        documents.drop_column("read_only_reason")
        documents.drop_column("purged_seq")
        documents.drop_column("covered_seq")
