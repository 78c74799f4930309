"""The stable codes of problems (RFC 9457): programs compare `code`, people read `title` and `detail`."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class ProblemCode(StrEnum):
    """What went wrong, once and for all time; a code is never renamed."""

    BAD_JSON = "bad_json"
    UNAUTHENTICATED = "unauthenticated"
    WRONG_CREDENTIALS = "wrong_credentials"
    FORBIDDEN = "forbidden"
    REGISTRATION_CLOSED = "registration_closed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TIMED_OUT = "timed_out"
    EMAIL_TAKEN = "email_taken"
    LAST_OWNER = "last_owner"
    OTHER_LINEAGE = "other_lineage"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    INVALID = "invalid"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """The HTTP status of a problem and its title, a short English sentence."""

    status: int
    title: str


PROBLEMS: Final[Mapping[ProblemCode, ProblemKind]] = MappingProxyType(
    {
        ProblemCode.BAD_JSON: ProblemKind(400, "The body is not valid JSON"),
        ProblemCode.UNAUTHENTICATED: ProblemKind(401, "Sign in first"),
        ProblemCode.WRONG_CREDENTIALS: ProblemKind(401, "E-mail or password is wrong"),
        ProblemCode.FORBIDDEN: ProblemKind(403, "Your role does not allow this"),
        ProblemCode.REGISTRATION_CLOSED: ProblemKind(403, "Registration is closed"),
        ProblemCode.NOT_FOUND: ProblemKind(404, "There is nothing here"),
        ProblemCode.METHOD_NOT_ALLOWED: ProblemKind(405, "This method is not offered here"),
        ProblemCode.TIMED_OUT: ProblemKind(408, "The request came too slowly"),
        ProblemCode.EMAIL_TAKEN: ProblemKind(409, "This e-mail address has an account"),
        ProblemCode.LAST_OWNER: ProblemKind(409, "A course keeps at least one owner"),
        ProblemCode.OTHER_LINEAGE: ProblemKind(409, "The document was replaced by a fresh one"),
        ProblemCode.TOO_LARGE: ProblemKind(413, "The body is too large"),
        ProblemCode.NOT_JSON: ProblemKind(415, "Send the body as application/json"),
        ProblemCode.INVALID: ProblemKind(422, "A value is not as it must be"),
        ProblemCode.TOO_MANY_ATTEMPTS: ProblemKind(429, "Too many attempts"),
        ProblemCode.INTERNAL: ProblemKind(500, "Something went wrong here"),
        ProblemCode.UNAVAILABLE: ProblemKind(503, "Not available at the moment"),
    }
)
"""Every code has one status and one title."""
