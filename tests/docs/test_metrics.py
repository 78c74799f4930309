"""docs/operations.md lists every metric, as the code has it, and every command."""

import re
from pathlib import Path

import typer
from prometheus_client import Counter, Gauge, Histogram

from constructure_sync import cli, observability


def section(repository: Path, page: str, heading: str) -> str:
    """The text under a heading, up to the next one of any level."""
    text = (repository / "docs" / page).read_text(encoding="utf-8")
    return re.split(r"^#+ ", text.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[tuple[str, ...]]:
    """The rows of a Markdown table whose first cell is code."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_every_metric_is_documented_as_it_is(repository: Path) -> None:
    expected = []
    for metric in vars(observability).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.describe()
            name = family.name + ("_total" if isinstance(metric, Counter) else "")
            labels = ", ".join(metric._labelnames) or "–"
            expected.append((f"`{name}`", family.type, labels, family.documentation))

    assert rows(section(repository, "operations.md", "## Metrics")) == expected


def names(commands: typer.Typer) -> set[str | None]:
    """The names under which a command line knows its commands and groups of commands."""
    own = {command.name or getattr(command.callback, "__name__", "") for command in commands.registered_commands}
    return own | {group.name for group in commands.registered_groups}


def test_every_command_is_documented(repository: Path) -> None:
    documented = {row[0].strip("`").split()[1] for row in rows(section(repository, "operations.md", "## Running"))}
    damaged = rows(section(repository, "operations.md", "## When a document is damaged"))

    assert documented == names(cli.app)
    assert {row[0].strip("`").split()[1] for row in damaged} == names(cli.doctor)


def test_every_gauge_is_summed_over_the_workers_that_live() -> None:
    gauges = [metric for metric in vars(observability).values() if isinstance(metric, Gauge)]

    assert {gauge._multiprocess_mode for gauge in gauges} <= {"livesum", "livemin", "livemax"}
