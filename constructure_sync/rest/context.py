"""What the REST layer needs of the rest of the server."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from auth.sign_in import SignIn, new_id
from auth.tokens import Tokens
from schemas.course import CourseSeed
from schemas.ids import CourseId, SessionId
from storage.courses import Courses


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this instance can serve. reasons: why not, in English; empty when it can. degraded: what works less well."""

    reasons: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """True when nothing stands against serving."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class RestServices:
    """What handlers call.

    seed: makes the first update of a course document. ready: asks the parts of the server. metrics: Prometheus text.
    public_url: the address under which clients reach this server, such as `https://courses.example.org`; a function,
    because a port of 0 is only known once the server listens. rights_changed: has the open sockets of a
    course or of a sign-in judged by their new rights before it returns. clock: seconds since 1970. body_seconds: the time within
    which a request's body must be here.
    """

    sign_in: SignIn
    courses: Courses
    tokens: Tokens
    seed: Callable[[CourseSeed], Awaitable[bytes]]
    ready: Callable[[], Awaitable[Readiness]]
    metrics: Callable[[], bytes]
    public_url: Callable[[], str]
    rights_changed: Callable[[CourseId | SessionId], Awaitable[None]]
    clock: Callable[[], float] = time.time
    make_id: Callable[[], UUID] = new_id
    body_seconds: float = 10.0
