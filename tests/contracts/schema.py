"""Compare what migrations made with what the tables say."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import Connection

from storage.tables import metadata

ONLY_POSTGRES = frozenset({"ix_courses_graph"})


def differences(connection: Connection) -> list[object]:
    """What autogenerate would still change; months of a partitioned table are none of its business."""

    def is_compared(_thing: object, name: str | None, kind: str, is_reflected: bool, _other: object) -> bool:
        if connection.dialect.name == "postgresql":
            return not (is_reflected and (name or "").startswith("analytics_events_") and kind == "table")
        return name not in ONLY_POSTGRES

    options = {"compare_type": True, "include_object": is_compared}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))
