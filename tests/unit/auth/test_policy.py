"""The policy: every action against every principal and role."""

from uuid import uuid4

import pytest

from auth.policy import Decision, Principal, decide
from schemas.ids import SessionId, UserId
from schemas.roles import PERMISSIONS, Action, Open, PlatformRole, Role

COURSE_ACTIONS = {
    Action.READ_COURSE: {"owner", "editor", "commenter", "viewer"},
    Action.CONNECT_COURSE: {"owner", "editor", "commenter", "viewer"},
    Action.READ_DOCUMENT: {"owner", "editor", "commenter", "viewer"},
    Action.WRITE_DOCUMENT: {"owner", "editor"},
    Action.CHANGE_MEMBERS: {"owner"},
}
PLATFORM_ACTIONS = {
    Action.READ_SELF: {"admin", "teacher", "student"},
    Action.SIGN_OUT: {"admin", "teacher", "student"},
    Action.LIST_COURSES: {"admin", "teacher", "student"},
    Action.CREATE_COURSE: {"admin", "teacher"},
}


def a_principal(role: PlatformRole) -> Principal:
    return Principal(UserId(uuid4()), SessionId(uuid4()), role)


def test_every_action_is_in_the_table_and_in_these_tests() -> None:
    assert set(PERMISSIONS) == set(Action) == {*COURSE_ACTIONS, *PLATFORM_ACTIONS, Action.SIGN_IN, Action.OPERATE}


@pytest.mark.parametrize("action", COURSE_ACTIONS)
@pytest.mark.parametrize("platform_role", PlatformRole)
def test_course_actions_need_a_role_in_the_course(action: Action, platform_role: PlatformRole) -> None:
    for role in (None, *Role):
        expected = Decision.ALLOWED if role in COURSE_ACTIONS[action] else Decision.FORBIDDEN
        assert decide(a_principal(platform_role), action, role) is expected


@pytest.mark.parametrize("action", PLATFORM_ACTIONS)
@pytest.mark.parametrize("role", PlatformRole)
def test_platform_actions_need_a_platform_role(action: Action, role: PlatformRole) -> None:
    expected = Decision.ALLOWED if role in PLATFORM_ACTIONS[action] else Decision.FORBIDDEN
    assert decide(a_principal(role), action) is expected


@pytest.mark.parametrize("action", Action)
def test_nobody_may_do_what_is_not_open_to_everybody(action: Action) -> None:
    expected = Decision.ALLOWED if isinstance(PERMISSIONS[action], Open) else Decision.UNAUTHENTICATED
    for role in (None, *Role):
        assert decide(None, action, role) is expected
