"""Roles and what comes in over REST."""

import pytest
from pydantic import ValidationError

from schemas.rest import CourseCreation
from schemas.roles import PlatformRole, Role, can_write_document


def test_roles_include_the_weaker_ones() -> None:
    ordered = [Role.VIEWER, Role.COMMENTER, Role.EDITOR, Role.OWNER]
    for place, role in enumerate(ordered):
        assert [role.includes(other) for other in ordered] == [other <= place for other in range(4)]
    assert PlatformRole.ADMIN.includes(PlatformRole.STUDENT)
    assert not PlatformRole.STUDENT.includes(PlatformRole.TEACHER)


@pytest.mark.parametrize(
    ("role", "writes"), [(Role.OWNER, True), (Role.EDITOR, True), (Role.COMMENTER, False), (Role.VIEWER, False)]
)
def test_owners_and_editors_write_the_document(role: Role, writes: bool) -> None:
    assert can_write_document(role) is writes


@pytest.mark.parametrize("title", ["", "   ", "a\x00b", "a\r\nb", "a\u2028b", "\x1b[31m", "x" * 301])
def test_titles_are_one_line(title: str) -> None:
    with pytest.raises(ValidationError):
        CourseCreation(title=title)


def test_titles_keep_their_words_and_lose_the_space_around_them() -> None:
    assert CourseCreation(title=" Größe 🙂 ").title == "Größe 🙂"
    assert len(CourseCreation(title="x" * 300).title) == 300
