"""Every route of the REST API on one page: method, path, permission, handler, body."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.routing import Route

from constructure_sync.rest import accounts, courses, operations
from constructure_sync.rest.context import RestServices
from constructure_sync.rest.endpoint import NoBody, Operation, make_routes
from schemas.rest import CourseCreation, Login, MemberChange, Refresh, Registration
from schemas.roles import Action

API: Final = "/api/v1"

OPERATIONS: Final[Sequence[Operation[Any]]] = (
    Operation("POST", f"{API}/auth/register", Action.SIGN_IN, accounts.register, Registration),
    Operation("POST", f"{API}/auth/login", Action.SIGN_IN, accounts.login, Login),
    Operation("POST", f"{API}/auth/refresh", Action.SIGN_IN, accounts.refresh, Refresh),
    Operation("POST", f"{API}/auth/logout", Action.SIGN_OUT, accounts.logout, NoBody),
    Operation("GET", f"{API}/me", Action.READ_SELF, accounts.me, NoBody),
    Operation("POST", f"{API}/courses", Action.CREATE_COURSE, courses.create, CourseCreation),
    Operation("GET", f"{API}/courses", Action.LIST_COURSES, courses.list_mine, NoBody),
    Operation("GET", f"{API}/courses/{{course}}", Action.READ_COURSE, courses.read, NoBody),
    Operation("PUT", f"{API}/courses/{{course}}/members/{{user}}", Action.CHANGE_MEMBERS, courses.set_member, MemberChange),
    Operation("POST", f"{API}/courses/{{course}}/connect", Action.CONNECT_COURSE, courses.connect, NoBody),
    Operation("GET", "/health", Action.OPERATE, operations.health, NoBody),
    Operation("GET", "/ready", Action.OPERATE, operations.ready, NoBody),
    Operation("GET", "/metrics", Action.OPERATE, operations.metrics, NoBody),
)  # fmt: skip


def routes(services: RestServices) -> list[Route]:
    """The routes of the application."""
    return make_routes(OPERATIONS, services)
