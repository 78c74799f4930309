"""Facts about the course document that several packages share."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from schemas.ids import CourseId, UserId

COURSE_SCHEMA_VERSION: Final = 1
"""Version of the course document's shape; clients learn it with the connect token."""


@dataclass(frozen=True, slots=True)
class CourseSeed:
    """What the first update of a course document is made of. created_at: seconds since 1970."""

    course_id: CourseId
    title: str
    owner: UserId
    lineage: UUID
    schema_version: int
    created_at: float
