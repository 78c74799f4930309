"""Courses, their members, and the token that opens a course's socket."""

import secrets
from datetime import UTC, datetime
from typing import Final

from starlette.responses import Response

from constructure_sync.rest.endpoint import Call, NoBody, json_response, read_id
from constructure_sync.rest.problems import Problem
from schemas.course import COURSE_SCHEMA_VERSION, CourseSeed
from schemas.ids import CommitId, CourseId, DocumentId, UserId
from schemas.problems import ProblemCode
from schemas.rest import (
    ConnectBody,
    CourseBody,
    CourseCreation,
    FieldProblem,
    MemberBody,
    MemberChange,
    MemberUser,
    Page,
)
from schemas.roles import Role, Visibility
from storage.courses import Course, NewCourse

PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 100


async def create(call: Call[CourseCreation]) -> Response:
    """A new course with its document, owned by the caller: 201."""
    services = call.services
    seed = CourseSeed(
        course_id=CourseId(services.make_id()),
        title=call.body.title,
        owner=call.caller.user.id,
        lineage=services.make_id(),
        schema_version=COURSE_SCHEMA_VERSION,
        created_at=services.clock(),
    )
    await services.courses.create(
        NewCourse(
            id=seed.course_id,
            title=seed.title,
            owner=seed.owner,
            document_id=DocumentId(services.make_id()),
            lineage=seed.lineage,
            schema_version=seed.schema_version,
            first_update=await services.seed(seed),
            commit=CommitId(secrets.randbelow(2**63 - 1) + 1),
            created_at=seed.created_at,
        )
    )
    made = Course(seed.course_id, seed.title, Visibility.PRIVATE, seed.created_at, Role.OWNER)
    return json_response(_course(made, Role.OWNER), 201, {"Location": f"/api/v1/courses/{made.id}"})


async def read(call: Call[NoBody]) -> Response:
    """A course, for its members."""
    return json_response(_course(call.course, _role(call.course)))


async def list_mine(call: Call[NoBody]) -> Response:
    """The caller's courses, newest first."""
    limit = _limit(call.query.get("limit"))
    cursor = call.query.get("cursor")
    before = None if cursor is None else _cursor(cursor)
    # One more than asked for tells whether there is a next page.
    found = await call.services.courses.list_for(call.caller.user.id, before, limit + 1)
    shown = found[:limit]
    body = Page[CourseBody](
        items=tuple(_course(each, _role(each)) for each in shown),
        next_cursor=str(shown[-1].id) if len(found) > limit else None,
    )
    return json_response(body)


async def set_member(call: Call[MemberChange]) -> Response:
    """Give a user a role in the course."""
    user_id = UserId(read_id(call.parameters["user"]))
    name = await call.services.courses.set_member(call.course.id, user_id, call.body.role, call.services.clock())
    if name is None:
        raise Problem(ProblemCode.NOT_FOUND, "there is no such user")
    await call.services.rights_changed(call.course.id)
    return json_response(MemberBody(user=MemberUser(id=user_id, name=name), role=call.body.role))


async def connect(call: Call[NoBody]) -> Response:
    """A token for the course's socket, bound to this sign-in."""
    principal = call.caller.principal
    services = call.services
    document = await services.courses.document(str(call.course.id), principal.user_id, principal.session_id)
    if document is None or document.role is None:
        raise Problem(ProblemCode.NOT_FOUND, "the course has no document")
    token = services.tokens.connect(
        principal.user_id, principal.session_id, call.course.id, document.role, document.lineage
    )
    body = ConnectBody(
        url=_socket_url(services.public_url()),
        token=token,
        role=document.role,
        lineage=document.lineage,
        schema_version=document.schema_version,
        expires_in=services.tokens.connect_lifetime,
    )
    return json_response(body)


def _socket_url(public_url: str) -> str:
    """`ws://host/sync` for `http://host`, `wss://` for `https://`."""
    return "ws" + public_url.removeprefix("http") + "/sync"


def _role(course: Course) -> Role:
    if course.role is None:
        raise Problem(ProblemCode.FORBIDDEN)
    return course.role


def _course(course: Course, role: Role) -> CourseBody:
    return CourseBody(
        id=course.id,
        title=course.title,
        visibility=course.visibility,
        role=role,
        created_at=datetime.fromtimestamp(course.created_at, UTC).isoformat(timespec="milliseconds"),
    )


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_SIZE
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_PAGE_SIZE):
        raise _bad_query("limit", f"must be a whole number from 1 to {MAX_PAGE_SIZE}")
    return int(text)


def _cursor(text: str) -> CourseId:
    try:
        return CourseId(read_id(text))
    except Problem:
        raise _bad_query("cursor", "must be the next_cursor of an earlier page") from None


def _bad_query(name: str, detail: str) -> Problem:
    return Problem(ProblemCode.INVALID, f"?{name}: {detail}", errors=(FieldProblem(field=f"?{name}", detail=detail),))
