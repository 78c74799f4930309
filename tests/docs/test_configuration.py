"""docs/configuration.md lists every setting, with its default and what the code says of it."""

from pathlib import Path

import pytest

from constructure_sync.settings import PREFIX, Settings


def rows(repository: Path) -> dict[str, tuple[str, str]]:
    """Variable → (default, meaning), as documented."""
    lines = (repository / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {variable.strip("`"): (default.strip("`"), meaning) for variable, default, meaning in cells}


def shown(default: object) -> str:
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if default not in ("", ()) else "empty"


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(repository: Path, name: str) -> None:
    field = Settings.model_fields[name]
    assert rows(repository)[PREFIX + name.upper()] == (shown(field.default), field.description)


def test_no_setting_is_documented_that_does_not_exist(repository: Path) -> None:
    assert set(rows(repository)) == {PREFIX + name.upper() for name in Settings.model_fields}
