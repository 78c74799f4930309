"""The raw figures of a comparison, as they are kept: a line of JSON for each round, in which every server met the load once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.aims import Round
from benchmarks.figures import Figures

ROUND, PROFILE = "round", "profile"
_KINDS: Final = (ROUND, PROFILE)


@dataclass(frozen=True, slots=True)
class Run:
    """One server under a load, once. failure: why it has no figures; steal, others: see Noise."""

    figures: Figures
    steal: float = 0.0
    others: float = 0.0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of a row. on: what it ran on; runs: by server, in the order in which they ran."""

    row: str
    number: int
    on: Mapping[str, str]
    runs: Mapping[str, Run]

    @property
    def figures(self) -> Round:
        """The figures of those that have any."""
        return {name: run.figures for name, run in self.runs.items() if not run.failure}


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the serving process spent its time under a load. shares: per cent, by place and by whose code it was."""

    row: str
    on: Mapping[str, str]
    places: Mapping[str, float]
    parts: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Records:
    """All that a file holds."""

    rounds: Sequence[Measured]
    profiles: Sequence[Profile]

    def of(self, row: str) -> list[Measured]:
        """Return the rounds of a row."""
        return [each for each in self.rounds if each.row == row]


def append(file: Path, record: Measured | Profile) -> None:
    """Write one more record."""
    kind = ROUND if isinstance(record, Measured) else PROFILE
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"kind": kind, **asdict(record)}, ensure_ascii=False) + "\n")


def read(file: Path) -> Records:
    """Return what a file holds; nothing where there is none. Of two profiles of a row the later one counts."""
    return parse(file.read_text(encoding="utf-8").splitlines()) if file.exists() else Records([], [])


def parse(lines: Iterable[str]) -> Records:
    """Return the records of lines."""
    rounds: list[Measured] = []
    profiles: dict[str, Profile] = {}
    for line in lines:
        fields: dict[str, Any] = json.loads(line)
        kind = fields.pop("kind")
        if kind == ROUND:
            runs = {name: Run(**run) for name, run in fields.pop("runs").items()}
            rounds.append(Measured(**fields, runs=runs))
        elif kind == PROFILE:
            profiles[fields["row"]] = Profile(**fields)
        else:
            raise ValueError(f"not one of {', '.join(_KINDS)}: {kind}")
    return Records(rounds, list(profiles.values()))
