"""From error to problem (RFC 9457): one table, one response."""

from collections.abc import Mapping
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from auth.passwords import PasswordsBusy
from auth.sign_in import NotSignedIn, RegistrationClosed, TooManyAttempts, WrongCredentials
from schemas.problems import PROBLEMS, ProblemCode
from schemas.rest import FieldProblem, ProblemBody
from storage.accounts import EmailTaken
from storage.contracts import StorageUnavailable
from storage.courses import LastOwner

RETRY_AFTER_SECONDS: Final = 5


class Problem(Exception):
    """An answer other than success. detail: for people. errors: the fields at fault. headers: of the response."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str | None = None,
        *,
        errors: tuple[FieldProblem, ...] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or PROBLEMS[code].title)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


ERRORS: Final[Mapping[type[Exception], ProblemCode]] = {
    NotSignedIn: ProblemCode.UNAUTHENTICATED,
    WrongCredentials: ProblemCode.WRONG_CREDENTIALS,
    RegistrationClosed: ProblemCode.REGISTRATION_CLOSED,
    EmailTaken: ProblemCode.EMAIL_TAKEN,
    LastOwner: ProblemCode.LAST_OWNER,
    TooManyAttempts: ProblemCode.TOO_MANY_ATTEMPTS,
    PasswordsBusy: ProblemCode.UNAVAILABLE,
    StorageUnavailable: ProblemCode.UNAVAILABLE,
    TimeoutError: ProblemCode.UNAVAILABLE,
}
"""What the layers below raise, and the problem a client sees. Anything else is `internal` and is logged."""


def as_problem(error: Exception) -> Problem | None:
    """The problem that an error is to a client. None: the error is a fault of ours."""
    if isinstance(error, Problem):
        return error
    code = ERRORS.get(type(error))
    if code is None:
        return None
    headers = {}
    if isinstance(error, TooManyAttempts):
        headers["Retry-After"] = str(error.retry_after)
    elif code is ProblemCode.UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    elif code is ProblemCode.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return Problem(code, headers=headers)


def problem_response(problem: Problem) -> Response:
    """The problem as `application/problem+json`."""
    kind = PROBLEMS[problem.code]
    body = ProblemBody(
        title=kind.title,
        status=kind.status,
        code=problem.code.value,
        detail=problem.detail,
        errors=problem.errors,
    )
    return Response(
        body.model_dump_json(exclude_none=True),
        status_code=kind.status,
        headers=problem.headers,
        media_type="application/problem+json",
    )


async def http_exception(_: Request, error: Exception) -> Response:
    """Starlette's own refusals, such as an unknown path, in our form: the application's handler of HTTPException."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    return problem_response(Problem(_REFUSALS.get(status, ProblemCode.NOT_FOUND)))


_REFUSALS: Final = {405: ProblemCode.METHOD_NOT_ALLOWED, 413: ProblemCode.TOO_LARGE}
