"""What an import writes beside the database: which document became which course, what became of each, and what was left out.

One folder holds all three: `mapping.jsonl`, `report.jsonl` (one line per document of the last run), `left-out/` (updates that were
not taken or not wholly taken, as they lay in the source). The mapping is a journal: a line is on disk before its course is made,
and another once the course is complete, so that an import which was killed is simply run again.
"""

import fcntl
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Self, TextIO
from urllib.parse import quote
from uuid import UUID

from constructure_sync.errors import ConstructureError
from constructure_sync.persistence.import_from.sources import SourceUpdate
from schemas.ids import CourseId

_STATES = {"begun": False, "complete": True}
_NAME_CHARACTERS = 80


class RecordsError(ConstructureError):
    """The mapping cannot be read, or another import is writing it."""


class Outcome(StrEnum):
    """What became of a document. LEFT_OUT: nothing of it could be taken."""

    IMPORTED = "imported"
    MERGED = "merged"
    SKIPPED = "skipped"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class LeftOutUpdate:
    """An update that was not wholly taken. update: where it lay. file: its copy, relative to the report; None on a dry run."""

    update: str
    reason: str
    file: str | None


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """One line of the report. read: updates and their bytes in the source; stored: those that were added to the log."""

    name: str
    outcome: Outcome
    course_id: str | None = None
    title: str | None = None
    read_updates: int = 0
    read_bytes: int = 0
    stored_updates: int = 0
    stored_bytes: int = 0
    left_out: tuple[LeftOutUpdate, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out."""
        return self.outcome is not Outcome.LEFT_OUT and not self.left_out


@dataclass(frozen=True, slots=True)
class Entry:
    """A course that a document became. is_complete: False while, or if, its import did not end."""

    course_id: CourseId
    is_complete: bool


class Mapping:
    """`mapping.jsonl`, held alone while it is open: {source, name, course_id, state}, the last line of a name counts.

    A context manager. Raises RecordsError on entering.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self._path = folder / "mapping.jsonl"
        self._source = source
        self._entries: dict[str, Entry] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        file = self._path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(file)
        except BlockingIOError:
            file.close()
            raise RecordsError(f"another import is writing {self._path}") from None
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):  # cut off by a crash: nothing was done on its strength
                file.truncate(file.tell() - len(line))
                return
            try:
                row = json.loads(line)
                entry = Entry(CourseId(UUID(row["course_id"])), _STATES[row["state"]])
                source, name = row["source"], row["name"]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise RecordsError(f"line {number} of {self._path} is no line of a mapping") from None
            if source == self._source:
                self._entries[name] = entry

    def get(self, name: str) -> Entry | None:
        """Return the course that this document of the source became. None: it was never imported."""
        return self._entries.get(name)

    def begin(self, name: str, course_id: CourseId) -> None:
        """Note that a course will be made for the document; on disk when this returns."""
        self._note(name, course_id, "begun")

    def complete(self, name: str, course_id: CourseId) -> None:
        """Note that the course holds all that could be taken; on disk when this returns."""
        self._note(name, course_id, "complete")

    def _note(self, name: str, course_id: CourseId, state: str) -> None:
        assert self._file is not None
        self._entries[name] = Entry(course_id, _STATES[state])
        row = {"source": self._source, "name": name, "course_id": str(course_id), "state": state}
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


class Report:
    """`report.jsonl`, written anew, and the copies of what was left out. A context manager."""

    def __init__(self, folder: Path, *, keeps_copies: bool) -> None:
        self._folder = folder
        self._keeps_copies = keeps_copies
        self.path = folder / "report.jsonl"
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, document: DocumentReport) -> None:
        """Write the line of one document."""
        assert self._file is not None
        self._file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
        self._file.flush()

    def left_out(self, name: str, update: SourceUpdate, reason: str) -> LeftOutUpdate:
        """Keep a copy of an update that was not wholly taken, unless nothing is to be kept."""
        if not self._keeps_copies:
            return LeftOutUpdate(update.label, reason, None)
        # Shortened names stay apart by their digest.
        digest = hashlib.sha256(f"{name}\0{update.label}".encode(errors="surrogatepass")).hexdigest()[:12]
        file = Path("left-out") / f"{quote(name, safe='')[:_NAME_CHARACTERS]}.{digest}.update"
        (self._folder / "left-out").mkdir(exist_ok=True)
        (self._folder / file).write_bytes(update.payload)
        return LeftOutUpdate(update.label, reason, str(file))
