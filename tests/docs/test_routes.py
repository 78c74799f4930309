"""docs/rest.md lists every route with whom it serves, and every problem code."""

from pathlib import Path

from constructure_sync.rest.routes import OPERATIONS
from schemas.problems import PROBLEMS
from schemas.roles import PERMISSIONS, Open, PlatformRole
from tests.docs.test_metrics import rows, section

WHO = {
    Open.EVERYBODY: "everybody",
    PlatformRole.STUDENT: "signed in",
    PlatformRole.TEACHER: "signed in as teacher",
    PlatformRole.ADMIN: "signed in as admin",
}


def test_every_route_is_documented_with_whom_it_serves(repository: Path) -> None:
    expected = [
        (f"`{each.method}`", f"`{each.path}`", WHO.get(need, need.value))
        for each in OPERATIONS
        for need in [PERMISSIONS[each.permission]]
    ]

    assert [row[:3] for row in rows(section(repository, "rest.md", "## Calls"))] == expected


def test_every_problem_is_documented_as_it_is(repository: Path) -> None:
    expected = [(f"`{code.value}`", str(kind.status), kind.title) for code, kind in PROBLEMS.items()]

    assert rows(section(repository, "rest.md", "## Problems")) == expected
