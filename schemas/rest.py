"""The bodies of the REST API. What comes in refuses unknown fields and other types; what goes out is written as is."""

import unicodedata
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field

from schemas.roles import PlatformRole, Role, Visibility

ItemT = TypeVar("ItemT")


def _one_line(value: str) -> str:
    """The text without space around it. ValueError: it is empty, or holds control characters."""
    value = value.strip()
    if not value:
        raise ValueError("must not be empty")
    if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in value):
        raise ValueError("must not hold line breaks or control characters")
    return value


Name = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
Title = Annotated[str, Field(max_length=300), AfterValidator(_one_line)]
Password = Annotated[str, Field(min_length=8, max_length=1024)]


class Incoming(BaseModel):
    """A request body: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Outgoing(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True)


class Registration(Incoming):
    """A new account."""

    email: Annotated[EmailStr, Field(max_length=320)]
    name: Name
    password: Password


class Login(Incoming):
    """E-mail and password of an account."""

    email: Annotated[str, Field(max_length=320)]
    password: Annotated[str, Field(max_length=1024)]


class Refresh(Incoming):
    """A refresh token, good for one use."""

    refresh_token: Annotated[str, Field(max_length=200)]


class UserBody(Outgoing):
    """An account as its owner sees it."""

    id: UUID
    email: str
    name: str
    role: PlatformRole


class SignedInBody(Outgoing):
    """A sign-in. expires_in: seconds until the access token ends."""

    user: UserBody
    access_token: str
    refresh_token: str
    expires_in: int


class CourseCreation(Incoming):
    """A new course."""

    title: Title


class CourseBody(Outgoing):
    """A course as a member sees it. created_at: RFC 3339, UTC."""

    id: UUID
    title: str
    visibility: Visibility
    role: Role
    created_at: str


class MemberChange(Incoming):
    """The role a user shall have in a course."""

    role: Role


class MemberUser(Outgoing):
    """A user as fellow members see them."""

    id: UUID
    name: str


class MemberBody(Outgoing):
    """A member of a course."""

    user: MemberUser
    role: Role


class ConnectBody(Outgoing):
    """What a provider needs: `new WebsocketProvider(url, course_id, doc, {params: {token}})`.

    schema: version of the course document. expires_in: seconds until the token ends.
    """

    url: str
    token: str
    role: Role
    lineage: UUID
    schema_version: Annotated[int, Field(serialization_alias="schema")]
    expires_in: int


class Page(Outgoing, Generic[ItemT]):
    """One page of a list. next_cursor: give it as `?cursor=` for the next page; null: this is the last."""

    items: tuple[ItemT, ...]
    next_cursor: str | None


class FieldProblem(Outgoing):
    """What is wrong with one field. field: a JSON pointer, such as `/title`."""

    field: str
    detail: str


class ProblemBody(Outgoing):
    """RFC 9457. `code` is stable; `errors` names fields."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str | None = None
    errors: tuple[FieldProblem, ...] | None = None


class HealthBody(Outgoing):
    """Health or readiness. reasons: why not; degraded: what works less well, and is no reason to go elsewhere. In English."""

    status: str
    reasons: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
