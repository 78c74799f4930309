"""Our thin layer on Starlette: a request becomes a `Call`, is authorised by the policy, and is answered or refused.

Nothing is handled before its operation's permission was asked; an operation cannot be made without one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from auth.policy import Decision, Principal, decide
from auth.sign_in import NotSignedIn
from constructure_sync.observability import get_logger
from constructure_sync.rest.context import RestServices
from constructure_sync.rest.problems import Problem, as_problem, problem_response
from schemas.ids import CourseId
from schemas.problems import ProblemCode
from schemas.rest import FieldProblem, Incoming
from schemas.roles import PERMISSIONS, Action, Open, Role
from storage.accounts import User
from storage.courses import Course

MAX_BODY_BYTES: Final = 64 * 1024
MAX_ERRORS: Final = 20

BodyT = TypeVar("BodyT", bound=BaseModel)


class NoBody(Incoming):
    """For operations that read no body."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as principal and as account."""

    principal: Principal
    user: User


@dataclass(frozen=True, slots=True)
class Call(Generic[BodyT]):
    """An authorised request. Its caller and course are there whenever the operation's permission speaks of them."""

    services: RestServices
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    body: BodyT
    caller_or_none: Caller | None
    course_or_none: Course | None

    @property
    def caller(self) -> Caller:
        """Who calls. LookupError: the permission asks for nobody."""
        if self.caller_or_none is None:
            raise LookupError("this operation is open to everybody: it has no caller")
        return self.caller_or_none

    @property
    def course(self) -> Course:
        """The course of the path. LookupError: the permission asks for no role in a course."""
        if self.course_or_none is None:
            raise LookupError("this operation's permission is no course role: it has no course")
        return self.course_or_none


@dataclass(frozen=True, slots=True)
class Operation(Generic[BodyT]):
    """One method of one path, and the permission without which it does nothing.

    A permission that is a course role needs `{course}` in the path. body: what is read; NoBody: nothing.
    """

    method: str
    path: str
    permission: Action
    handle: Callable[[Call[BodyT]], Awaitable[Response]]
    body: type[BodyT]

    async def answer(self, request: Request, services: RestServices) -> Response:
        """The response. Raises Problem, and whatever `problems.ERRORS` names."""
        # Signing in must work for whoever still sends a token that has ended.
        caller = None if isinstance(PERMISSIONS[self.permission], Open) else await _caller(request, services)
        course = await self._authorise(request, services, caller)
        body = self.body() if self.body is NoBody else await _read_body(request, self.body, services)
        parameters: dict[str, str] = request.path_params
        return await self.handle(Call(services, parameters, request.query_params, body, caller, course))

    async def _authorise(self, request: Request, services: RestServices, caller: Caller | None) -> Course | None:
        principal = caller.principal if caller else None
        course = None
        if isinstance(PERMISSIONS[self.permission], Role) and principal is not None:
            course_id = CourseId(read_id(request.path_params["course"]))
            course = await services.courses.get(course_id, principal.user_id)
            if course is None:
                raise Problem(ProblemCode.NOT_FOUND, "there is no such course")
        match decide(principal, self.permission, course.role if course else None):
            case Decision.UNAUTHENTICATED:
                raise NotSignedIn("an access token is needed")
            case Decision.FORBIDDEN:
                raise Problem(ProblemCode.FORBIDDEN)
            case Decision.ALLOWED:
                return course


class Endpoint:
    """All operations of one path, as an ASGI application: an unknown method is told which ones there are."""

    def __init__(self, path: str, operations: Sequence[Operation[BaseModel]], services: RestServices) -> None:
        self.path = path
        self.operations = {each.method: each for each in operations}
        self._services = services
        methods = {*self.operations, *({"HEAD"} if "GET" in self.operations else set())}
        self._allow = ", ".join(sorted(methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        operation = self.operations.get("GET" if request.method == "HEAD" else request.method)
        try:
            if operation is None:
                raise Problem(ProblemCode.METHOD_NOT_ALLOWED, headers={"Allow": self._allow})
            return await operation.answer(request, self._services)
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                get_logger().error("request failed", route=self.path, method=request.method, exc_info=True)
                problem = Problem(ProblemCode.INTERNAL)
            return problem_response(problem)


def make_routes(operations: Iterable[Operation[BaseModel]], services: RestServices) -> list[Route]:
    """One route for each path."""
    paths: dict[str, list[Operation[BaseModel]]] = {}
    for operation in operations:
        paths.setdefault(operation.path, []).append(operation)
    return [Route(path, Endpoint(path, found, services), name=path) for path, found in paths.items()]


def unguarded(routes: Iterable[BaseRoute]) -> list[str]:
    """The routes whose permission nobody declared: anything that is not made of operations."""
    return [
        getattr(route, "path", repr(route))
        for route in routes
        if not (isinstance(route, Route) and isinstance(route.endpoint, Endpoint) and route.endpoint.operations)
    ]


def read_id(text: str) -> UUID:
    """The id in a path. One spelling only; anything else is not found."""
    try:
        found = UUID(text)
    except ValueError:
        raise Problem(ProblemCode.NOT_FOUND) from None
    if str(found) != text:
        raise Problem(ProblemCode.NOT_FOUND)
    return found


def json_response(body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A body as JSON, under the names of the wire."""
    content = body.model_dump_json(by_alias=True)
    return Response(content, status_code=status, headers=headers, media_type="application/json")


async def _caller(request: Request, services: RestServices) -> Caller | None:
    """Who shows a bearer token. None: nobody does. NotSignedIn: the token is worth nothing."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise NotSignedIn("only bearer tokens are taken")
    principal, user = await services.sign_in.authenticate(token.strip())
    return Caller(principal, user)


async def _read_body(request: Request, model: type[BodyT], services: RestServices) -> BodyT:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(ProblemCode.NOT_JSON)
    try:
        async with asyncio.timeout(services.body_seconds):
            content = await _collect(request)
    except (TimeoutError, ClientDisconnect):
        raise Problem(ProblemCode.TIMED_OUT, headers={"Connection": "close"}) from None
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise _body_problem(error) from error


async def _collect(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise Problem(ProblemCode.TOO_LARGE, f"at most {MAX_BODY_BYTES} bytes", headers={"Connection": "close"})
    return bytes(content)


def _body_problem(error: ValidationError) -> Problem:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Problem(ProblemCode.BAD_JSON, found[0]["msg"])
    fields = tuple(
        FieldProblem(
            field="".join(f"/{part}"[:100] for part in each["loc"]), detail=each["msg"].removeprefix("Value error, ")
        )
        for each in found[:MAX_ERRORS]
    )
    return Problem(ProblemCode.INVALID, f"{fields[0].field or '/'}: {fields[0].detail}", errors=fields)
