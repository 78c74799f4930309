"""Power cuts on a recorded disk, in short (`make faults ARGS=power` is the long run), and the disk they happen to."""

import random
from pathlib import Path
from typing import Final

import pytest

from tests.faults.disk import Disk, Kind, Operation
from tests.faults.power import CannotRecord, CutReport, compile_recorder, cut_power, record

SEED: Final = 5
ROOT_SYNC: Final = (Operation(Kind.FOLDER_SYNC_BEGIN, "", 0, 1, b""), Operation(Kind.FOLDER_SYNC_END, "", 0, 1, b""))
FILE_SYNC: Final = (Operation(Kind.SYNC_BEGIN, "", 1, 2, b""), Operation(Kind.SYNC_END, "", 1, 2, b""))
MADE: Final = Operation(Kind.CREATE, "file", 1, 0, b"")
NEW: Final = b"n" * 8192


async def _cut(folder: Path, synchronous: str, cuts: int) -> CutReport:
    try:
        library = compile_recorder(folder)
    except CannotRecord as error:
        pytest.skip(str(error))
    recording = record(folder, library, edits=400, seed=SEED, synchronous=synchronous)
    return await cut_power(folder, recording, cuts=cuts, seed=SEED)


async def test_R1_no_acknowledged_edit_is_lost_in_a_power_cut(tmp_path: Path) -> None:
    report = await _cut(tmp_path, "FULL", 100)

    assert report.losses == ()
    assert report.faults == ()
    assert report.promised == 400


async def test_a_power_cut_loses_acknowledged_edits_where_commits_are_not_synced(tmp_path: Path) -> None:
    assert (await _cut(tmp_path, "NORMAL", 20)).losses


def _left(*operations: Operation) -> set[bytes | None]:
    """What a power cut may leave of the file: contents; None: no file."""
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return {disk.after_cut(random.Random(seed)).get("file") for seed in range(300)}


def _write(data: bytes, offset: int = 0) -> Operation:
    return Operation(Kind.WRITE, "", 1, offset, data)


def test_what_was_synced_is_there() -> None:
    assert _left(MADE, _write(b"old"), *FILE_SYNC, *ROOT_SYNC) == {b"old"}


def test_what_was_not_synced_may_be_missing_or_torn_at_sectors() -> None:
    left = _left(MADE, _write(bytes(8192)), *FILE_SYNC, *ROOT_SYNC, _write(NEW))

    assert {bytes(8192), NEW, bytes(4096) + NEW[4096:], NEW[:4096] + bytes(4096)} <= left
    assert all(len(set(content[at : at + 512])) == 1 for content in left if content for at in range(0, 8192, 512))


def test_a_write_that_came_after_a_sync_began_is_not_covered_by_it() -> None:
    assert b"" in _left(MADE, *ROOT_SYNC, FILE_SYNC[0], _write(b"new"), FILE_SYNC[1])


def test_a_file_whose_folder_was_not_synced_may_be_gone() -> None:
    assert _left(MADE, _write(b"old"), *FILE_SYNC) == {b"old", None}


def test_a_removed_file_may_come_back_until_its_folder_is_synced() -> None:
    made, gone = (MADE, _write(b"old"), *FILE_SYNC, *ROOT_SYNC), Operation(Kind.UNLINK, "file", 0, 0, b"")

    assert _left(*made, gone) == {b"old", None}
    assert _left(*made, gone, *ROOT_SYNC) == {None}


def test_a_truncation_that_was_not_synced_may_not_have_happened() -> None:
    cut = Operation(Kind.TRUNCATE, "", 1, 1, b"")

    assert _left(MADE, _write(b"old"), *FILE_SYNC, *ROOT_SYNC, cut) == {b"old", b"o"}
