"""The one function that decides what a principal may do. It is pure: whoever calls it has looked up the role."""

from dataclasses import dataclass
from enum import Enum, auto

from schemas.ids import SessionId, UserId
from schemas.roles import PERMISSIONS, Action, Open, PlatformRole, Role


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who is signed in, and the sign-in that says so."""

    user_id: UserId
    session_id: SessionId
    platform_role: PlatformRole


class Decision(Enum):
    """What the policy says."""

    ALLOWED = auto()
    UNAUTHENTICATED = auto()
    FORBIDDEN = auto()


def decide(principal: Principal | None, action: Action, role: Role | None = None) -> Decision:
    """Whether `principal` may do `action` to an object where it has `role`.

    principal: None for somebody not signed in. role: None for a stranger, or when the action concerns no course.
    """
    need = PERMISSIONS[action]
    if isinstance(need, Open):
        return Decision.ALLOWED
    if principal is None:
        return Decision.UNAUTHENTICATED
    if isinstance(need, PlatformRole):
        return Decision.ALLOWED if principal.platform_role.includes(need) else Decision.FORBIDDEN
    return Decision.ALLOWED if role is not None and role.includes(need) else Decision.FORBIDDEN
