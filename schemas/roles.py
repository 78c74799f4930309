"""Roles, visibility, and the one table that says which role may do what."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Role(StrEnum):
    """What a member is in a course, strongest first."""

    OWNER = "owner"
    EDITOR = "editor"
    COMMENTER = "commenter"
    VIEWER = "viewer"

    def includes(self, other: "Role") -> bool:
        """True when whoever has this role may do all that `other` may do."""
        return _COURSE_RANK[self] >= _COURSE_RANK[other]


class PlatformRole(StrEnum):
    """What a user is on the whole server, strongest first."""

    ADMIN = "admin"
    TEACHER = "teacher"
    STUDENT = "student"

    def includes(self, other: "PlatformRole") -> bool:
        """True when whoever has this role may do all that `other` may do."""
        return _PLATFORM_RANK[self] >= _PLATFORM_RANK[other]


class Visibility(StrEnum):
    """Who finds a course: its members, whoever has the link, everybody."""

    PRIVATE = "private"
    LINK = "link"
    PUBLIC = "public"


class Open(StrEnum):
    """A need that everybody meets, signed in or not."""

    EVERYBODY = "everybody"


class Action(StrEnum):
    """Everything that can be asked of the server; a route or a message is allowed only as one of these."""

    SIGN_IN = "sign_in"
    OPERATE = "operate"
    READ_SELF = "read_self"
    SIGN_OUT = "sign_out"
    LIST_COURSES = "list_courses"
    CREATE_COURSE = "create_course"
    READ_COURSE = "read_course"
    CONNECT_COURSE = "connect_course"
    CHANGE_MEMBERS = "change_members"
    READ_DOCUMENT = "read_document"
    WRITE_DOCUMENT = "write_document"


Need = Open | PlatformRole | Role

PERMISSIONS: Final[Mapping[Action, Need]] = MappingProxyType(
    {
        Action.SIGN_IN: Open.EVERYBODY,
        # Health, readiness and metrics hold no content and no names.
        Action.OPERATE: Open.EVERYBODY,
        Action.READ_SELF: PlatformRole.STUDENT,
        Action.SIGN_OUT: PlatformRole.STUDENT,
        Action.LIST_COURSES: PlatformRole.STUDENT,
        Action.CREATE_COURSE: PlatformRole.TEACHER,
        Action.READ_COURSE: Role.VIEWER,
        Action.CONNECT_COURSE: Role.VIEWER,
        Action.CHANGE_MEMBERS: Role.OWNER,
        Action.READ_DOCUMENT: Role.VIEWER,
        Action.WRITE_DOCUMENT: Role.EDITOR,
    }
)
"""The least role each action needs: nothing, a role on the server, or a role in the course it is done to."""

_COURSE_RANK: Final = {Role.OWNER: 3, Role.EDITOR: 2, Role.COMMENTER: 1, Role.VIEWER: 0}
_PLATFORM_RANK: Final = {PlatformRole.ADMIN: 2, PlatformRole.TEACHER: 1, PlatformRole.STUDENT: 0}


def can_write_document(role: Role) -> bool:
    """True when writes of a member with this role are taken into the course document."""
    need = PERMISSIONS[Action.WRITE_DOCUMENT]
    return isinstance(need, Role) and role.includes(need)
