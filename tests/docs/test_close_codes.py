"""The close codes in the documentation are those in the code."""

import re
from pathlib import Path

from constructure_sync.protocol.closes import CLOSE_CODES


def test_every_close_code_is_documented_as_it_is(repository: Path) -> None:
    page = (repository / "docs" / "protocol.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", page.split("\n## Close codes\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section.splitlines() if line[:1] == "|"
    ]
    documented = [row for row in rows if row[0].isdigit()]
    assert documented == [
        (str(entry.code), entry.name, "stop" if entry.permanent else "retry", entry.meaning, entry.advice)
        for entry in CLOSE_CODES
    ]
