"""The Dockerfile, taken apart as far as the tests need it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DOCKERFILE: Final = Path(__file__).resolve().parent.parent.parent / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `RUN`, and what follows it on its line and the lines it goes on to."""

    name: str
    value: str


def stages() -> list[list[Instruction]]:
    """The instructions of each stage, the last one being the image's."""
    joined = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append(Instruction(name, " ".join(value.split()) if name != "HEALTHCHECK" else value))
    return found


def values(stage: list[Instruction], name: str) -> list[str]:
    return [each.value for each in stage if each.name == name]


def environment(stage: list[Instruction]) -> dict[str, str]:
    """The variables that a stage sets."""
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(values(stage, "ENV"))))


def health_command(stage: list[Instruction]) -> list[str]:
    """The words of the health check's command."""
    (check,) = values(stage, "HEALTHCHECK")
    words: list[str] = json.loads(check.partition("CMD")[2])
    return words
