"""What the Markdown pages point to is there."""

import re
import subprocess
from pathlib import Path

import pytest

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"```.*?```", re.DOTALL)


@pytest.fixture(scope="module")
def pages(repository: Path) -> list[Path]:
    """Return the Markdown pages of the repository."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=repository, check=True, capture_output=True, timeout=60).stdout.decode()
    return [repository / path for path in listed.split("\0") if path and (repository / path).is_file()]


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, spaces as hyphens, without punctuation."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(text)}


def broken(page: Path) -> list[str]:
    """The links of a page, to other files of the repository, that lead nowhere."""
    found = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            found.append(target)
    return found


def test_every_link_inside_the_repository_leads_somewhere(repository: Path, pages: list[Path]) -> None:
    assert {str(page.relative_to(repository)): links for page in pages if (links := broken(page))} == {}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](page.md#one) [b](#two) [c](gone.md) [d](https://example.org)", encoding="utf-8")

    assert broken(page) == ["#two", "gone.md"]


def test_every_decision_is_listed_in_order(repository: Path) -> None:
    folder = repository / "docs" / "decisions"
    decisions = sorted(path.name for path in folder.glob("[0-9]*.md"))
    listed = LINK.findall((folder / "README.md").read_text(encoding="utf-8"))

    assert listed == decisions
    assert [int(name[:4]) for name in decisions] == list(range(1, len(decisions) + 1))


def test_every_decision_says_why_and_what_follows(repository: Path) -> None:
    for page in (repository / "docs" / "decisions").glob("[0-9]*.md"):
        headings = HEADING.findall(page.read_text(encoding="utf-8"))
        assert headings[1:] == ["Context", "Decision", "Consequences"], page.name


def test_every_example_is_listed(repository: Path) -> None:
    listed = (repository / "examples" / "README.md").read_text(encoding="utf-8")
    programs = [path.name for path in (repository / "examples").iterdir() if path.suffix in (".py", ".mjs")]

    assert [name for name in programs if f"]({name})" not in listed] == []
