"""The journal of an import, and what foreign files are refused for."""

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from constructure_sync.persistence.import_from.records import Entry, Mapping, RecordsError, Report
from constructure_sync.persistence.import_from.sources import SourceError, SourceKind, SourceUpdate, open_source
from schemas.ids import CourseId

COURSE = CourseId(UUID(int=5))


def test_the_mapping_keeps_the_last_state_of_each_name_and_sources_apart(tmp_path: Path) -> None:
    with Mapping(tmp_path, "old") as mapping:
        mapping.begin("line\nbreak", COURSE)
        mapping.begin("done", COURSE)
        mapping.complete("done", COURSE)

    with Mapping(tmp_path, "old") as mapping:
        assert mapping.get("line\nbreak") == Entry(COURSE, is_complete=False)
        assert mapping.get("done") == Entry(COURSE, is_complete=True)
        assert mapping.get("other") is None
    with Mapping(tmp_path, "another") as mapping:
        assert mapping.get("done") is None


def test_a_line_that_was_cut_off_is_dropped_and_a_foreign_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "mapping.jsonl"
    with Mapping(tmp_path, "old") as mapping:
        mapping.complete("one", COURSE)
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:-9])

    with Mapping(tmp_path, "old") as mapping:
        mapping.complete("two", COURSE)
    with Mapping(tmp_path, "old") as mapping:
        assert mapping.get("two") == Entry(COURSE, is_complete=True)

    file.write_bytes(whole + b'{"source": "old"}\n')
    with pytest.raises(RecordsError, match="line 2"), Mapping(tmp_path, "old"):
        pass


def test_two_imports_do_not_write_one_mapping(tmp_path: Path) -> None:
    with (
        Mapping(tmp_path, "old"),
        pytest.raises(RecordsError, match="another import is writing"),
        Mapping(tmp_path, "old"),
    ):
        pass


def test_copies_of_what_is_left_out_stay_apart_whatever_the_names(tmp_path: Path) -> None:
    names = ["a" * 300 + "1", "a" * 300 + "2", "../../escape", "nul\0", "."]
    with Report(tmp_path, keeps_copies=True) as report:
        files = [report.left_out(name, SourceUpdate("row 1", name.encode()), "why").file for name in names]

    assert len(set(files)) == len(names)
    for name, file in zip(names, files, strict=True):
        assert file is not None
        assert (tmp_path / file).resolve().parent == (tmp_path / "left-out").resolve()
        assert (tmp_path / file).read_bytes() == name.encode()


def test_files_of_a_folder_are_named_for_their_documents(tmp_path: Path) -> None:
    for name in ("a%2Fb.update", "a%2Fb.bin", "plain", "v1.5", ".hidden", "%ff.yjs"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "inner").mkdir()

    source = open_source(SourceKind.FOLDER, tmp_path)

    assert sorted(source.names()) == ["\\xff", "a/b", "plain", "v1.5"]
    assert [update.payload for update in source.read("a/b")] == [b"a%2Fb.bin", b"a%2Fb.update"]


@pytest.mark.parametrize("kind", list(SourceKind))
def test_what_is_not_there_is_said(kind: SourceKind, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no"):
        open_source(kind, tmp_path / "gone")


@pytest.mark.parametrize(
    ("kind", "script", "words"),
    [
        (SourceKind.HOCUSPOCUS_SQLITE, "CREATE TABLE other (name)", 'no table "documents"'),
        (SourceKind.HOCUSPOCUS_SQLITE, "CREATE TABLE documents (id, payload)", "columns data, name"),
        (SourceKind.PYCRDT_SQLITE, "CREATE TABLE documents (name, data)", 'no table "yupdates"'),
        (
            SourceKind.PYCRDT_SQLITE,
            "CREATE TABLE yupdates (path, yupdate, metadata, timestamp); PRAGMA user_version = 3",
            "version 3 of the store; known: 2",
        ),
    ],
)
def test_a_store_of_another_shape_is_refused(kind: SourceKind, script: str, words: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db")) as store:
        store.executescript(script)

    with pytest.raises(SourceError, match=words):
        open_source(kind, tmp_path / "store.db")


@pytest.mark.parametrize("kind", [SourceKind.HOCUSPOCUS_SQLITE, SourceKind.PYCRDT_SQLITE])
def test_a_file_that_is_no_database_is_refused(kind: SourceKind, tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 100)

    with pytest.raises(SourceError, match="cannot be read"):
        open_source(kind, tmp_path / "store.db")
