"""Moving in: stores as other servers write them become courses, and stock Yjs sees the same content afterwards."""

import gzip
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pycrdt
import pytest

from constructure_sync.persistence.export import export_document
from constructure_sync.persistence.import_from.records import DocumentReport, Outcome
from constructure_sync.persistence.import_from.run import ImportRequest, import_from
from constructure_sync.persistence.import_from.sources import SourceKind
from constructure_sync.protocol.known import Known
from constructure_sync.settings import Settings
from schemas.ids import Seq, UserId
from schemas.roles import PlatformRole
from storage.accounts import User
from storage.contracts import StorageUnavailable
from storage.log import SqlUpdateLog
from storage.open import open_database
from tests.conformance.node_client import NodeDriver
from tests.conformance.updates import COURSE
from tests.server_process import REPOSITORY

OWNER = UserId(UUID(int=7))
EMAIL = "ada@example.org"

# As @hocuspocus/extension-sqlite 4.7.0 makes it.
HOCUSPOCUS_SCHEMA = """CREATE TABLE IF NOT EXISTS "documents" (
  "name" varchar(255) NOT NULL,
  "data" blob NOT NULL,
  UNIQUE(name)
)"""

# As pycrdt-store 0.1.5 makes it.
YSTORE_SCHEMA = """
CREATE TABLE yupdates (path TEXT NOT NULL, yupdate BLOB, metadata BLOB, timestamp REAL NOT NULL);
CREATE INDEX idx_yupdates_path_timestamp ON yupdates (path, timestamp);
CREATE TABLE ycheckpoints (path TEXT NOT NULL, checkpoint BLOB NOT NULL, timestamp REAL NOT NULL, PRIMARY KEY(path));
PRAGMA user_version = 2;
"""

# Rich content of several authors, with deletes, a split emoji, markup, and a title: the whole state and one that lacks an edit.
RICH = """(Y) => {
  const [a, b] = [new Y.Doc(), new Y.Doc()]
  a.clientID = 2 ** 53 - 1
  b.clientID = 77
  const relay = () => { Y.applyUpdate(b, Y.encodeStateAsUpdate(a)); Y.applyUpdate(a, Y.encodeStateAsUpdate(b)) }
  a.getText('title').insert(0, 'Größe 😀')
  a.getText('body').insert(0, 'one two three '.repeat(9000))
  relay()
  b.getText('body').delete(10, 100000)
  b.getText('body').insert(4, 'ab😀', { bold: true })
  b.getText('body').delete(7, 1)
  for (let n = 0; n < 3000; n++) a.getMap('keys').set(`k${n % 50}`, { n })
  relay()
  a.getXmlFragment('page').insert(0, [new Y.XmlElement('p'), new Y.XmlText('text')])
  const before = Y.encodeStateAsUpdate(b)
  relay()
  return [before, Y.encodeStateAsUpdate(a)]
}"""

GAP = """(Y) => {
  const doc = new Y.Doc()
  doc.clientID = 5
  const updates = []
  doc.on('update', update => updates.push(update))
  for (const word of ['one', 'two', 'three']) doc.getText('t').insert(doc.getText('t').length, word)
  return { partly: Y.mergeUpdates([updates[0], updates[2]]), v2: Y.encodeStateAsUpdateV2(doc), whole: Y.encodeStateAsUpdate(doc) }
}"""

SAME = """(Y, { a, b }) => {
  const facts = update => {
    const doc = new Y.Doc()
    Y.applyUpdate(doc, update)
    for (const name of ['title', 'body', 't']) doc.getText(name)
    for (const name of ['keys', 'nodes', 'edges', 'layout', 'map']) doc.getMap(name)
    doc.getXmlFragment('page')
    const vector = [...Y.decodeStateVector(Y.encodeStateVector(doc))].sort()
    const deleted = [...Y.createDeleteSetFromStructStore(doc.store).clients].sort()
    const sorted = (_key, part) => part?.constructor === Object ? Object.fromEntries(Object.entries(part).sort()) : part
    const roots = [...doc.share].sort(([x], [y]) => x < y ? -1 : 1)
    const content = roots.map(([name, type]) => [name, type.toDelta?.() ?? type.toJSON()])
    return JSON.stringify([vector, deleted, content, doc.store.pendingStructs, doc.store.pendingDs], sorted)
  }
  return facts(a) === facts(b)
}"""


@pytest.fixture(scope="module")
async def yjs() -> AsyncIterator[NodeDriver]:
    running = NodeDriver()
    await running.start()
    yield running
    await running.stop()


@dataclass(frozen=True, slots=True)
class Place:
    """A data folder with one account, and where an import writes."""

    folder: Path
    settings: Settings

    @property
    def output(self) -> Path:
        return self.folder / "imported"

    def mapping(self) -> dict[str, str]:
        lines = (self.output / "mapping.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["name"]: row["course_id"] for row in map(json.loads, lines)}

    def report(self) -> dict[str, dict[str, Any]]:
        lines = (self.output / "report.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["name"]: row for row in map(json.loads, lines)}

    async def run(
        self, kind: SourceKind, path: Path, *, merges: bool = False, is_dry_run: bool = False
    ) -> dict[str, DocumentReport]:
        told: list[DocumentReport] = []
        request = ImportRequest(kind, path, "old", EMAIL, self.output, "*", merges, is_dry_run)
        await import_from(self.settings, request, lambda _number, _count, document: told.append(document))
        return {document.name: document for document in told}

    async def exported(self, name: str) -> bytes:
        update = await export_document(self.settings.database_address, self.mapping()[name])
        assert update is not None
        return update

    async def courses(self) -> dict[str, str]:
        """Return the owner's courses: titles by id."""
        async with await open_database(self.settings.database_address) as database:
            return {str(each.id): each.title for each in await database.courses.list_for(OWNER, None, 100)}

    async def rows(self, name: str) -> list[bytes]:
        async with await open_database(self.settings.database_address) as database:
            document_id = await database.courses.document_id(self.mapping()[name])
            assert document_id is not None
            return [row.payload for row in await database.log.history(document_id, Seq(1), Seq(10_000))]


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    settings = Settings(data_dir=tmp_path / "data")
    async with await open_database(settings.database_address) as database:
        await database.accounts.create(User(OWNER, EMAIL, "Ada", PlatformRole.TEACHER, 1.0), "no hash")
    return Place(tmp_path, settings)


def hocuspocus(path: Path, documents: Mapping[str, bytes]) -> Path:
    with closing(sqlite3.connect(path)) as store, store:
        store.execute(HOCUSPOCUS_SCHEMA)
        upsert = "INSERT INTO documents (name, data) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET data = excluded.data"
        store.executemany(upsert, documents.items())
    return path


def ystore(path: Path, rows: Sequence[tuple[str, bytes, float]], checkpoints: Sequence[tuple[str, bytes]] = ()) -> Path:
    with closing(sqlite3.connect(path)) as store, store:
        store.executescript(YSTORE_SCHEMA)
        store.executemany("INSERT INTO yupdates VALUES (?, ?, x'', ?)", rows)
        store.executemany("INSERT INTO ycheckpoints VALUES (?, ?, 5.0)", checkpoints)
    return path


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


async def same(yjs: NodeDriver, a: bytes, b: bytes) -> bool:
    return bool(await yjs.compute(SAME, a=a, b=b))


def edits(count: int) -> tuple[list[bytes], bytes]:
    """Return the updates of a pycrdt document as a store would be given them, and its whole state."""
    keys: pycrdt.Map[object] = pycrdt.Map()
    text = pycrdt.Text()
    document: pycrdt.Doc[pycrdt.Map[object] | pycrdt.Text] = pycrdt.Doc({"map": keys, "body": text})
    updates: list[bytes] = []
    subscription = document.observe(lambda event: updates.append(event.update))
    for number in range(count):
        keys[f"key {number % 7}"] = number
        text += f"word {number} "
    document.unobserve(subscription)
    return updates, document.get_update()


def command(place: Place, *arguments: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONSTRUCTURE_")}
    return subprocess.run(
        [sys.executable, "-m", "constructure_sync.cli", "import-from", *arguments],
        cwd=REPOSITORY,
        env=inherited | {"CONSTRUCTURE_DATA_DIR": str(place.settings.data_dir)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_a_hocuspocus_store_becomes_courses_that_stock_yjs_sees_unchanged(place: Place, yjs: NodeDriver) -> None:
    _, rich = await yjs.compute(RICH)
    course = await yjs.compute(COURSE, nodes=120)
    documents = {"team/größe": rich, "a 'quoted' name": course, "empty": b"\x00\x00"}
    path = hocuspocus(place.folder / "hocuspocus.sqlite", documents)
    arguments = ("hocuspocus-sqlite", str(path), "--owner", EMAIL.upper(), "--output", str(place.output))

    first = command(place, *arguments)
    again = command(place, *arguments)

    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("3 imported; see ")
    assert "2/3 'empty': imported" in first.stderr
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("3 skipped; see ")
    for name, state in documents.items():
        assert await same(yjs, await place.exported(name), state)
    mapping = place.mapping()
    assert await place.courses() == {
        mapping["team/größe"]: "Größe 😀",
        mapping["a 'quoted' name"]: "a 'quoted' name",
        mapping["empty"]: "empty",
    }


async def test_a_large_document_is_stored_as_small_updates_that_each_integrate(place: Place, yjs: NodeDriver) -> None:
    state = await yjs.compute(COURSE, nodes=400)
    await place.run(SourceKind.FOLDER, folder(place.folder / "files", {"big.update": state}))

    rows = await place.rows("big")
    known = Known()
    for row in rows:
        part = known.close(row)
        assert not part.missing
        known.add(part)
    assert len(rows) > 5
    assert max(map(len, rows)) <= 33 * 1024
    assert await same(yjs, await place.exported("big"), state)


async def test_a_pycrdt_store_is_read_whole_in_any_order_and_with_its_checkpoint(place: Place, yjs: NodeDriver) -> None:
    updates, state = edits(150)
    shuffled = [("shuffled", update, float(number % 3)) for number, update in enumerate(updates)]
    reversed_ = [("reversed", update, float(-number)) for number, update in enumerate(updates)]
    # Squashing history leaves rows that lack what only the checkpoint still holds.
    squashed = [("squashed", b"\x00\x00", 5.0), ("squashed", updates[-1], 6.0)]
    checkpoint = pycrdt.merge_updates(*updates[:-1])
    path = ystore(place.folder / "y.db", shuffled + reversed_ + squashed, [("squashed", checkpoint)])

    told = await place.run(SourceKind.PYCRDT_SQLITE, path)

    assert [document.is_whole for document in told.values()] == [True] * 3
    for name in ("shuffled", "reversed", "squashed"):
        assert await same(yjs, await place.exported(name), state), name
        assert len(await place.rows(name)) < 5


async def test_what_cannot_be_taken_is_kept_aside_with_its_reason_and_the_rest_goes_on(
    place: Place, yjs: NodeDriver
) -> None:
    made = await yjs.compute(GAP)
    files = {
        "a%2Fwhole.bin": made["whole"],
        "cut.update": made["whole"][:-3],
        "nested.update": b"\x01\x01\x05\x00\x08\x01\x01t\x01" + b"\x75\x01" * 100_000 + b"\x7e\x00",
        "packed": gzip.compress(made["whole"]),
        "partly.update": made["partly"],
        "v2.yjs": made["v2"],
    }
    path = folder(place.folder / "files", files)

    ended = command(place, "folder", str(path), "--owner", EMAIL, "--output", str(place.output))

    assert ended.returncode == 1
    assert ended.stdout.startswith("2 imported, 4 left out; see ")
    assert "of 5 documents something was left out" in ended.stderr
    reasons = {name: row["left_out"][0]["reason"] for name, row in place.report().items() if row["left_out"]}
    assert reasons.keys() == {"cut", "nested", "packed", "partly", "v2"}
    assert "convertUpdateFormatV2ToV1" in reasons["v2"]
    assert "gzip" in reasons["packed"]
    assert "client 5 from clock 3" in reasons["partly"]
    assert place.mapping().keys() == {"a/whole", "partly"}
    assert len(await place.courses()) == 2
    for name, row in place.report().items():
        for left in row["left_out"]:
            assert (place.output / left["file"]).read_bytes() == files[left["update"].removeprefix("file ")], name
    assert await same(yjs, await place.exported("a/whole"), made["whole"])


async def test_a_document_that_grew_is_merged_when_asked_and_skipped_otherwise(place: Place, yjs: NodeDriver) -> None:
    before, after = await yjs.compute(RICH)
    path = hocuspocus(place.folder / "hocuspocus.sqlite", {"one": before})
    assert (await place.run(SourceKind.HOCUSPOCUS_SQLITE, path))["one"].outcome is Outcome.IMPORTED
    hocuspocus(path, {"one": after})

    skipped = await place.run(SourceKind.HOCUSPOCUS_SQLITE, path)
    assert skipped["one"].outcome is Outcome.SKIPPED
    assert await same(yjs, await place.exported("one"), before)

    merged = await place.run(SourceKind.HOCUSPOCUS_SQLITE, path, merges=True)
    assert merged["one"].outcome is Outcome.MERGED
    assert merged["one"].stored_bytes < 1000
    assert await same(yjs, await place.exported("one"), after)
    assert len(await place.courses()) == 1

    again = await place.run(SourceKind.HOCUSPOCUS_SQLITE, path, merges=True)
    assert again["one"].stored_updates == 0


async def test_an_import_that_was_cut_off_is_completed_by_the_next(
    place: Place, yjs: NodeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = await yjs.compute(COURSE, nodes=200)
    path = folder(place.folder / "files", {"one.update": state, "two.update": state})
    hurried = replace(place, settings=place.settings.model_copy(update={"log_batch_updates": 1}))
    appends = 0

    async def fail(log: SqlUpdateLog, batch: object) -> object:
        nonlocal appends
        appends += 1
        if appends == 2:
            raise StorageUnavailable("away")
        return await append(log, batch)  # type: ignore[arg-type]

    append = SqlUpdateLog.append
    monkeypatch.setattr(SqlUpdateLog, "append", fail)
    with pytest.raises(StorageUnavailable):
        await hurried.run(SourceKind.FOLDER, path)
    assert not await same(yjs, await place.exported("one"), state)
    monkeypatch.undo()
    with (place.output / "mapping.jsonl").open("a") as mapping:
        mapping.write('{"source": "old", "name": "tw')  # as a power cut leaves it

    told = await hurried.run(SourceKind.FOLDER, path)

    assert [told[name].outcome for name in ("one", "two")] == [Outcome.MERGED, Outcome.IMPORTED]
    assert len(await place.courses()) == 2
    for name in ("one", "two"):
        assert await same(yjs, await place.exported(name), state)


async def test_a_dry_run_reports_and_changes_nothing(place: Place, yjs: NodeDriver) -> None:
    made = await yjs.compute(GAP)
    path = folder(place.folder / "files", {"whole.update": made["whole"], "v2.update": made["v2"]})

    told = await place.run(SourceKind.FOLDER, path, is_dry_run=True)

    assert told["whole"].outcome is Outcome.IMPORTED
    assert told["whole"].stored_updates == 1
    assert told["v2"].outcome is Outcome.LEFT_OUT
    assert place.report().keys() == {"whole", "v2"}
    assert place.mapping() == {}
    assert not (place.output / "left-out").exists()
    assert await place.courses() == {}


async def test_an_owner_without_an_account_stops_the_import(place: Place) -> None:
    path = folder(place.folder / "files", {"one.update": b"\x00\x00"})

    ended = command(place, "folder", str(path), "--owner", "nobody@example.org", "--output", str(place.output))

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "the import stopped: there is no account with the e-mail address nobody@example.org"
    )
