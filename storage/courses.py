"""Courses, their members and their documents, in SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, bindparam, func, insert, select, update
from sqlalchemy.engine import Connection, Row

from schemas.ids import CommitId, CourseId, DocumentId, Seq, SessionId, UserId
from schemas.roles import PlatformRole, Role, Visibility
from storage.contracts import StorageError
from storage.database import SqlDatabase
from storage.dialects import insert_or
from storage.tables import course_members, courses, document_updates, documents, sessions, users


class LastOwner(StorageError):
    """The change would leave a course without an owner."""


@dataclass(frozen=True, slots=True)
class NewCourse:
    """A course and its document, to be made at once. first_update: a V1 update with `meta` and `title`."""

    id: CourseId
    title: str
    owner: UserId
    document_id: DocumentId
    lineage: UUID
    schema_version: int
    first_update: bytes
    commit: CommitId
    created_at: float


@dataclass(frozen=True, slots=True)
class Course:
    """A course as one user sees it. role: None for a stranger. created_at: seconds since 1970."""

    id: CourseId
    title: str
    visibility: Visibility
    created_at: float
    role: Role | None


@dataclass(frozen=True, slots=True)
class CourseDocument:
    """The document behind a name, and how a user with a session stands to it.

    user: name and platform role; None when there is no such user. session_alive: False when the sign-in has ended or
    is somebody else's. is_read_only: nobody may write for now, whatever the role.
    """

    id: DocumentId
    course_id: CourseId
    lineage: UUID
    schema_version: int
    role: Role | None
    user: tuple[str, PlatformRole] | None
    session_alive: bool
    is_read_only: bool = False


class Courses:
    """The store of courses, members and documents."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database

    async def create(self, course: NewCourse) -> None:
        """Make course, owner, document and its first update (Seq 1) in one transaction."""
        await self._database.write(partial(_create, course))

    async def get(self, course_id: CourseId, user_id: UserId) -> Course | None:
        """The course as `user_id` sees it. None: no such course."""
        return await self._database.read(partial(_get, course_id, user_id))

    async def list_for(self, user_id: UserId, before: CourseId | None, limit: int) -> Sequence[Course]:
        """The courses of a member, newest first, after the one named `before`."""
        return await self._database.read(partial(_list, user_id, before, limit))

    async def set_member(self, course_id: CourseId, user_id: UserId, role: Role, now: float) -> str | None:
        """Give a user a role; the user's name. None: no such user. LastOwner: nothing was changed."""
        return await self._database.write(partial(_set_member, course_id, user_id, role, now))

    async def document(self, name: str, user_id: UserId, session_id: SessionId) -> CourseDocument | None:
        """The document of this name. None: there is none."""
        return await self._database.read(partial(_document, name, user_id, session_id))

    async def document_id(self, name: str) -> DocumentId | None:
        """The id of the document of this name, for whoever operates the server. None: there is none."""
        return await self._database.read(
            lambda connection: connection.scalar(select(documents.c.id).where(documents.c.name == name))
        )

    async def underived(self, limit: int) -> Sequence[DocumentId]:
        """Documents of which more is saved than was derived from them."""
        query = select(documents.c.id).where(documents.c.derived_seq < documents.c.head_seq).limit(limit)
        return await self._database.read(lambda connection: connection.scalars(query).all())

    async def set_derived(self, document_id: DocumentId, seq: Seq, title: str | None) -> bool:
        """Note what was derived from the log up to `seq`. False: as much or more was derived before; nothing changed."""
        return await self._database.write(partial(_set_derived, document_id, seq, title))


def _set_derived(document_id: DocumentId, seq: Seq, title: str | None, connection: Connection) -> bool:
    newer = (
        update(documents).where(documents.c.id == document_id, documents.c.derived_seq < seq).values(derived_seq=seq)
    )
    if not connection.execute(newer).rowcount:
        return False
    if title is not None:
        course = select(documents.c.course_id).where(documents.c.id == document_id).scalar_subquery()
        # A document's text may hold NUL, PostgreSQL's cannot.
        shown = title.replace("\0", "\N{REPLACEMENT CHARACTER}")
        connection.execute(update(courses).where(courses.c.id == course).values(title=shown))
    return True


def _create(course: NewCourse, connection: Connection) -> None:
    connection.execute(
        insert(courses).values(
            id=course.id, title=course.title, visibility=Visibility.PRIVATE.value, created_at=course.created_at
        )
    )
    connection.execute(
        insert(course_members).values(
            course_id=course.id, user_id=course.owner, role=Role.OWNER.value, added_at=course.created_at
        )
    )
    connection.execute(
        insert(documents).values(
            id=course.document_id,
            course_id=course.id,
            name=str(course.id),
            lineage=course.lineage,
            schema_version=course.schema_version,
            head_seq=1,
            head_commit=course.commit,
            derived_seq=0,
            created_at=course.created_at,
        )
    )
    connection.execute(
        insert(document_updates).values(
            document_id=course.document_id,
            seq=1,
            payload=course.first_update,
            user_id=course.owner,
            commit_id=course.commit,
            saved_at=course.created_at,
        )
    )


_COURSE = (courses.c.id, courses.c.title, courses.c.visibility, courses.c.created_at, course_members.c.role)


def _course(row: Row[UUID, str, str, float, str | None]) -> Course:
    return Course(CourseId(row[0]), row[1], Visibility(row[2]), row[3], None if row[4] is None else Role(row[4]))


def _get(course_id: CourseId, user_id: UserId, connection: Connection) -> Course | None:
    membership = (course_members.c.course_id == courses.c.id) & (course_members.c.user_id == user_id)
    row = connection.execute(
        select(*_COURSE).join_from(courses, course_members, membership, isouter=True).where(courses.c.id == course_id)
    ).first()
    return None if row is None else _course(row)


def _list(user_id: UserId, before: CourseId | None, limit: int, connection: Connection) -> Sequence[Course]:
    query = (
        select(*_COURSE)
        .join_from(courses, course_members, course_members.c.course_id == courses.c.id)
        .where(course_members.c.user_id == user_id)
        # Ids are UUIDv7, so their order is the order of making.
        .order_by(course_members.c.course_id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(course_members.c.course_id < before)
    return [_course(row) for row in connection.execute(query)]


def _set_member(course_id: CourseId, user_id: UserId, role: Role, now: float, connection: Connection) -> str | None:
    name: str | None = connection.scalar(select(users.c.name).where(users.c.id == user_id))
    if name is None:
        return None
    # Two owners who step down at the same moment must meet here.
    connection.execute(select(courses.c.id).where(courses.c.id == course_id).with_for_update())
    connection.execute(
        insert_or(course_members, connection)
        .values(course_id=course_id, user_id=user_id, role=role.value, added_at=now)
        .on_conflict_do_update(index_elements=["course_id", "user_id"], set_={"role": role.value})
    )
    owners = connection.scalar(
        select(func.count())
        .select_from(course_members)
        .where(course_members.c.course_id == course_id, course_members.c.role == Role.OWNER.value)
    )
    if not owners:
        raise LastOwner("a course keeps at least one owner")
    return name


def _select_document() -> Select[*tuple[Any, ...]]:
    membership = (course_members.c.course_id == documents.c.course_id) & (
        course_members.c.user_id == bindparam("user_id")
    )
    alive = (
        select(sessions.c.id)
        .where(
            sessions.c.id == bindparam("session_id"),
            sessions.c.user_id == bindparam("user_id"),
            sessions.c.revoked_at.is_(None),
        )
        .exists()
    )
    return (
        select(
            documents.c.id,
            documents.c.course_id,
            documents.c.lineage,
            documents.c.schema_version,
            course_members.c.role,
            users.c.name,
            users.c.platform_role,
            alive,
            documents.c.read_only_reason,
        )
        .join_from(documents, course_members, membership, isouter=True)
        .join(users, users.c.id == bindparam("user_id"), isouter=True)
        .where(documents.c.name == bindparam("name"))
    )


_DOCUMENT: Final = _select_document()  # once: making it costs more than SQLite's answer, and every socket asks


def _document(name: str, user_id: UserId, session_id: SessionId, connection: Connection) -> CourseDocument | None:
    row = connection.execute(_DOCUMENT, {"name": name, "user_id": user_id, "session_id": session_id}).first()
    if row is None:
        return None
    role = None if row[4] is None else Role(row[4])
    user = None if row[5] is None else (row[5], PlatformRole(row[6]))
    return CourseDocument(
        DocumentId(row[0]), CourseId(row[1]), row[2], row[3], role, user, bool(row[7]), row[8] is not None
    )
