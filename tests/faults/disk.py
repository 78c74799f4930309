"""A disk that forgets: the recorded operations on some files, and what may be left of them after a power cut.

Modelled as POSIX promises it and no better: what was written to a file is safe once that file was synced; that a file is there,
or is gone, is safe once its folder was synced. Until then any part of it may be missing, in any combination.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

SECTORS: Final = (512, 4096)
"""Sizes at which a write may be torn: what a disk, or the kernel's page cache, writes at once."""

_HEAD: Final = struct.Struct("=IIQQQ")


class Kind(IntEnum):
    """What happened; the numbers are those of `disk_recorder.c`."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC_BEGIN = 4
    SYNC_END = 5
    UNLINK = 6
    MAKE_FOLDER = 7
    FOLDER_SYNC_BEGIN = 8
    FOLDER_SYNC_END = 9
    MARK = 10


@dataclass(frozen=True, slots=True)
class Operation:
    """One record. offset: of a write; the length of a truncation; the number of a sync; the promise of a mark."""

    kind: Kind
    name: str
    file: int
    offset: int
    data: bytes


def read_trace(trace: Path) -> list[Operation]:
    """Return all recorded operations in order."""
    return list(_operations(trace.read_bytes()))


def _operations(trace: bytes) -> Iterator[Operation]:
    position = 0
    while position < len(trace):
        kind, name_length, file, offset, length = _HEAD.unpack_from(trace, position)
        position += _HEAD.size
        name = trace[position : position + name_length].decode()
        position += name_length
        yield Operation(Kind(kind), name, file, offset, trace[position : position + length])
        position += length


@dataclass(slots=True)
class _Pending:
    """Operations that no sync covers yet, and how many of them stood there when a running sync began."""

    operations: list[Operation] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)

    def begin(self, number: int) -> None:
        self.begun[number] = len(self.operations)

    def end(self, number: int) -> list[Operation]:
        """Take out what the sync covered."""
        count = self.begun.pop(number)
        covered, self.operations = self.operations[:count], self.operations[count:]
        self.begun = {other: max(0, place - count) for other, place in self.begun.items()}
        return covered


class Disk:
    """What is safe, and what is on its way. Feed it operations in order, cut the power in between."""

    def __init__(self) -> None:
        self._safe: dict[int, bytearray] = {}
        self._files: dict[int, _Pending] = {}
        self._safe_names: dict[str, int | None] = {"": None}  # folders have no file number
        self._folders: dict[str, _Pending] = {}

    def apply(self, operation: Operation) -> None:
        """Take the next operation."""
        if operation.kind in (Kind.WRITE, Kind.TRUNCATE):
            self._files[operation.file].operations.append(operation)
        elif operation.kind in (Kind.CREATE, Kind.UNLINK, Kind.MAKE_FOLDER):
            if operation.kind is Kind.CREATE:
                self._safe[operation.file] = bytearray()
                self._files[operation.file] = _Pending()
            self._folder(_parent(operation.name)).operations.append(operation)
        elif operation.kind is Kind.SYNC_BEGIN:
            self._files[operation.file].begin(operation.offset)
        elif operation.kind is Kind.SYNC_END:
            for covered in self._files[operation.file].end(operation.offset):
                _write(self._safe[operation.file], covered, None)
        elif operation.kind is Kind.FOLDER_SYNC_BEGIN:
            self._folder(operation.name).begin(operation.offset)
        elif operation.kind is Kind.FOLDER_SYNC_END:
            for covered in self._folder(operation.name).end(operation.offset):
                _rename(self._safe_names, covered)

    def _folder(self, name: str) -> _Pending:
        return self._folders.setdefault(name, _Pending())

    def after_cut(self, randomness: random.Random) -> dict[str, bytes]:
        """Return what may be left, by name: all that is safe, and of the rest whatever chance has kept."""
        # Some cuts lose everything on its way, some nearly nothing, some half of it.
        share = randomness.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        return self._image(share, randomness)

    def everything(self) -> dict[str, bytes]:
        """Return what is there when nothing is lost."""
        return self._image(1.0, random.Random(0))

    def _image(self, share: float, randomness: random.Random) -> dict[str, bytes]:
        names = dict(self._safe_names)
        for pending in self._folders.values():
            for operation in _prefixes(pending.operations, share, randomness):
                _rename(names, operation)
        return {
            name: self._content(file, share, randomness)
            for name, file in names.items()
            if file is not None and _is_reachable(name, names)
        }

    def _content(self, file: int, share: float, randomness: random.Random) -> bytes:
        content = bytearray(self._safe[file])
        for operation in self._files[file].operations:
            chance = randomness.random()
            if chance < share:
                _write(content, operation, None)
            elif chance < share + (1 - share) / 2:
                _write(content, operation, randomness)
        return bytes(content)


def _prefixes(operations: list[Operation], share: float, randomness: random.Random) -> Iterator[Operation]:
    """Of each name's unsynced changes, the first few: a name cannot come back in an order in which it never was."""
    stopped: set[str] = set()
    for operation in operations:
        if operation.name not in stopped and randomness.random() < share:
            yield operation
        else:
            stopped.add(operation.name)


def _rename(names: dict[str, int | None], operation: Operation) -> None:
    if operation.kind is Kind.UNLINK:
        names.pop(operation.name, None)
    else:
        names[operation.name] = operation.file if operation.kind is Kind.CREATE else None


def _is_reachable(name: str, names: dict[str, int | None]) -> bool:
    return not name or (name in names and _is_reachable(_parent(name), names))


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _write(content: bytearray, operation: Operation, tearing: random.Random | None) -> None:
    """Do a write or a truncation; torn, each sector of the write is there or not, and a truncation is not done."""
    if operation.kind is Kind.TRUNCATE:
        if tearing is None:
            del content[operation.offset :]
            content.extend(bytes(operation.offset - len(content)))
        return
    start, end = operation.offset, operation.offset + len(operation.data)
    sector = len(operation.data) if tearing is None else tearing.choice(SECTORS)
    while start < end:
        # Sectors lie on the disk, not in the write: one that is written in part is torn off at its own border.
        stop = end if tearing is None else min(end, (start // sector + 1) * sector)
        if tearing is None or tearing.random() < 0.5:
            content.extend(bytes(max(0, start - len(content))))
            content[start:stop] = operation.data[start - operation.offset : stop - operation.offset]
        start = stop
