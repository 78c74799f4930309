"""The Python examples against a real server: real courses go in, two people edit meanwhile, nothing gets lost."""

import asyncio
import json
import os
import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from course_document import CourseDocument, order_key, set_text
from local_store import Store, StoreUnusable
from pycrdt import Doc, Text
from sync_account import Account as Caller
from sync_client import CountingJournal, Replica, open_connection

from tests.server_process import REPOSITORY, Account, ServerProcess

EXAMPLES = REPOSITORY / "examples"
SMALL = EXAMPLES / "data" / "course-small-git-es.json"
SHARED = REPOSITORY.parent / "shared" / "data"
SECONDS = 60.0
ADDED_EACH = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server"), {"drain_seconds": "0"}) as running:
        yield running


@pytest.fixture(scope="module")
def teachers(server: ServerProcess) -> tuple[Account, Account]:
    return server.register("Ana"), server.register("Bo")


def _heed_interrupts() -> None:
    """Undo what a shell does to what it starts in the background, tests and all: they, and what they start, are deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Program:
    """An example in a process of its own, with its input and everything it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, account: Account, script: str, *arguments: object) -> "Program":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLES / script),
            *map(str, arguments),
            "--email",
            account.email,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "COURSE_PASSWORD": account.password, "PYTHONWARNINGS": "error"},
            preexec_fn=_heed_interrupts,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(65536):
            self.output += chunk.decode(errors="replace")

    def type(self, *lines: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    async def printed(self, text: str, times: int = 1) -> str:
        """Wait until it has printed the text so many times; return all output."""
        try:
            async with asyncio.timeout(SECONDS):
                while self.output.count(text) < times:
                    if self._reading.done():
                        raise AssertionError(f"it ended without printing {text!r}:\n{self.output}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it did not print {text!r}:\n{self.output}") from None
        return self.output

    async def sees(self, name: str) -> None:
        """Wait until it lists somebody as present."""
        async with asyncio.timeout(SECONDS):
            while not re.search(rf"^{name}$", self.output, re.MULTILINE):
                self.type("who")
                await asyncio.sleep(0.1)

    async def ended(self) -> int:
        """Wait for its end; return the exit status."""
        async with asyncio.timeout(SECONDS):
            await self._reading
            return await self.process.wait()


async def client(server: ServerProcess, account: Account, course: str, store: Path, *options: str) -> Program:
    return await Program.start(account, "python_client.py", server.url, course, "--store", store, *options)


def content(document: Doc[Any]) -> dict[str, Any]:
    """Everything in a course document as plain values."""
    course = CourseDocument(document, "", random.Random(0))
    maps = {"nodes": course.nodes, "edges": course.edges, "edgeProps": course.edge_props, "settings": course.settings}
    texts = {"title": str(course.title), "description": str(course.description)}
    return {**{name: value.to_py() for name, value in maps.items()}, **texts}


def stored(path: Path) -> dict[str, Any]:
    """What the local store of a desktop client holds."""
    store = Store(path)
    replica = Replica(CountingJournal())
    try:
        assert store.unsaved() == 0
        for update in store.updates():
            replica.apply(update)
        return content(replica.document)
    finally:
        replica.close()
        store.close()


async def fresh(server: ServerProcess, account: Account, course: str) -> dict[str, Any]:
    """What a client sees that comes with nothing."""
    door = await asyncio.to_thread(Caller(server.url, account.email, account.password).connect, course)
    replica = Replica(CountingJournal())
    try:
        async with asyncio.timeout(SECONDS), open_connection(replica, door) as connection:
            await connection.synced()
        return content(replica.document)
    finally:
        replica.close()


def check_course(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every node and edge of the file is in the document as the schema wants it."""
    nodes, edges = found["nodes"], found["edges"]
    for node in expected["nodes"]:
        there = nodes[node["id"]]
        assert (there["kind"], there["title"], there["desc"]) == (node["kind"], node["title"], node["description"])
        assert (there["parent"], there["life"]) == (node["parent"] or "", 1)
        assert {key for key in there if key.startswith("tag:")} == {f"tag:{slug}" for slug in node["tags"]}
        assert {key: there[key] for key in there if key.startswith("p:")} == {
            f"p:{node['kind']}.{name}": value for name, value in node["props"].items()
        }
    siblings: dict[str, list[dict[str, Any]]] = {}
    for node in sorted(expected["nodes"], key=lambda node: nodes[node["id"]]["ord"]):
        siblings.setdefault(node["parent"] or "", []).append(node)
    for group in siblings.values():
        assert [node["order"] for node in group] == list(range(len(group)))
    for edge in expected["edges"]:
        there = edges[f"{edge['type']}:{edge['from']}>{edge['to']}"]
        assert (there["type"], there["from"], there["to"]) == (edge["type"], edge["from"], edge["to"])


@pytest.mark.parametrize(
    "file",
    [SMALL, SHARED / "course-medium-metacademy.json", SHARED / "course-large-exercism.json"],
    ids=lambda f: f.stem,
)
async def test_a_course_is_loaded_while_two_people_edit_it(
    server: ServerProcess, teachers: tuple[Account, Account], tmp_path: Path, file: Path
) -> None:
    if not file.exists():
        pytest.skip(
            f"needs the real course {file.name} in a folder shared/data beside the repository; only the small one ships"
        )
    expected = json.loads(file.read_text(encoding="utf-8"))
    ana, bo = teachers
    course = server.create_course(ana, expected["title"])
    server.add_member(ana, course, bo, "editor")
    people = [await client(server, who, course, tmp_path / f"{who.name}.db") for who in teachers]
    for person in people:
        await person.printed("online as")
    for person, other in zip(people, ("Bo", "Ana"), strict=True):
        await person.sees(other)

    loading = await Program.start(ana, "load_course.py", server.url, file, "--course", course)
    for number in range(ADDED_EACH):
        for person in people:
            person.type(f"add lesson Ñandú 😀 {number}")
        await people[0].printed("added", number + 1)
    assert await loading.ended() == 0, loading.output
    assert f"{len(expected['nodes'])} nodes and {len(expected['edges'])} edges saved" in loading.output
    for person, word in zip(people, ("first", "second"), strict=True):
        await person.printed("added", ADDED_EACH)
        own = [line.split()[1] for line in person.output.splitlines() if line.startswith("added")]
        person.type(f"rename {own[0]} {word}", f"link seq {own[0]} {own[1]}", f"trash {own[2]}")
        await person.printed("trashed")
    for person in people:
        person.type("quit")
        assert await person.ended() == 0, person.output
        assert "stopped; everything is saved" in person.output

    seen = await fresh(server, bo, course)
    assert seen["title"] == expected["title"]
    assert len(seen["nodes"]) == len(expected["nodes"]) + 2 * ADDED_EACH
    assert len(seen["edges"]) == len(expected["edges"]) + 2
    check_course(seen, expected)
    titles = [node["title"] for node in seen["nodes"].values()]
    assert {"first", "second"} <= set(titles)
    assert sum(isinstance(node["life"], dict) for node in seen["nodes"].values()) == 2
    # Whoever left first did not see the other's last edits; it does when it comes back.
    for who in teachers:
        again = await client(server, who, course, tmp_path / f"{who.name}.db")
        await again.printed("online as")
        again.type("quit")
        assert await again.ended() == 0, again.output
        assert stored(tmp_path / f"{who.name}.db") == seen
    print(loading.output.strip())


async def test_a_new_course_is_made_for_a_new_account(server: ServerProcess, teachers: tuple[Account, Account]) -> None:
    nobody = Account("", "Cy", "cy@example.org", "a new password 1", "")

    loading = await Program.start(nobody, "load_course.py", server.url, SMALL, "--title", "Git, otra vez")

    assert await loading.ended() == 0, loading.output
    course = loading.output.split()[1]
    seen = await fresh(server, nobody, course)
    assert seen["title"] == "Git, otra vez"
    check_course(seen, json.loads(SMALL.read_text(encoding="utf-8")))


async def test_edits_made_offline_and_through_a_crash_of_the_server_arrive(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server", {"drain_seconds": "0"}) as server:
        ana = server.register("Ana")
        course = server.create_course(ana, "A course")
        store = tmp_path / "ana.db"

        offline = await client(server, ana, course, store, "--offline")
        offline.type("add lesson made offline")
        await offline.printed("added")
        offline.process.kill()
        await offline.ended()

        online = await client(server, ana, course, store)
        await online.printed("online as owner: 1 nodes, 1 edit to save")
        await online.printed("everything is saved")
        server.kill()
        await online.printed("next attempt in")
        online.type("add quiz made while the server was away")
        await online.printed("1 edit not saved yet")
        server.start()
        await online.printed("online as owner: 2 nodes")
        await online.printed("everything is saved", 2)
        online.process.send_signal(signal.SIGINT)
        assert await online.ended() == 0, online.output
        assert "Traceback" not in online.output

        seen = await fresh(server, ana, course)
    titles = sorted(node["title"] for node in seen["nodes"].values())
    assert titles == ["made offline", "made while the server was away"]
    assert stored(store) == seen


async def test_a_reader_is_told_and_keeps_what_it_wrote(
    server: ServerProcess, teachers: tuple[Account, Account], tmp_path: Path
) -> None:
    ana, _ = teachers
    reader = server.register("Rea")
    course = server.create_course(ana, "For reading")
    server.add_member(ana, course, reader, "viewer")

    program = await client(server, reader, course, tmp_path / "rea.db")
    await program.printed("online as viewer")
    program.type("add lesson not mine to add")
    await program.printed("the server refuses: 4403")
    program.type("quit")

    assert await program.ended() == 1
    assert "1 edit not saved yet, kept in" in program.output
    assert (await fresh(server, ana, course))["nodes"] == {}


class FullDisk(CountingJournal):
    """A journal that can keep nothing more."""

    def append(self, update: bytes, *, is_local: bool) -> int:
        raise OSError("no space left")


async def test_a_journal_that_fails_ends_the_line(server: ServerProcess, teachers: tuple[Account, Account]) -> None:
    ana, _ = teachers
    course = server.create_course(ana, "A course")
    door = await asyncio.to_thread(Caller(server.url, ana.email, ana.password).connect, course)
    replica = Replica(FullDisk())

    async with asyncio.timeout(SECONDS), open_connection(replica, door) as connection:
        with pytest.raises(OSError, match="no space left"):
            await connection.synced()
    replica.close()


async def test_a_store_has_one_program_and_one_course(
    server: ServerProcess, teachers: tuple[Account, Account], tmp_path: Path
) -> None:
    ana, _ = teachers
    first = server.create_course(ana, "One")
    open_store = Store(tmp_path / "one.db")
    with pytest.raises(StoreUnusable, match="in use"):
        Store(tmp_path / "one.db")
    open_store.bind("course", first)
    open_store.close()

    other = await client(server, ana, server.create_course(ana, "Two"), tmp_path / "one.db")

    assert await other.ended() == 1
    assert f"belongs to another course: {first}" in other.output


def test_compaction_keeps_the_document_and_what_is_unsaved(tmp_path: Path) -> None:
    store = Store(tmp_path / "kept.db", compact_rows=100)
    replica = Replica(store)
    text: Text = replica.document.get("title", type=Text)
    for number in range(150):
        with replica.edit():
            text.insert(len(str(text).encode()), chr(0x1F600 + number % 70))
    store.mark_saved(140)

    store.compact()

    assert store.unsaved() == 10
    assert len(store.updates()) == 11
    copy = Replica(CountingJournal())
    for update in store.updates():
        copy.apply(update)
    assert str(copy.document.get("title", type=Text)) == str(text)
    for each in (replica, copy):
        each.close()
    store.close()


def test_order_keys_sort_as_their_numbers_and_end_above_zero() -> None:
    keys = [order_key(index, random.Random(index)) for index in range(5_000)]

    assert keys == sorted(keys)
    assert not any(key.endswith("0") for key in keys)
    assert (keys[0][:2], keys[61][:2], keys[62][:3], keys[62 + 62**2][:4]) == ("a0", "az", "b00", "c000")


@pytest.mark.parametrize(
    ("old", "new"),
    [("", "ab"), ("ab", ""), ("aéb", "aéxb"), ("x😀y", "x😁y"), ("aaa", "aa"), ("ñandú", "Ñandú"), ("same", "same")],
)
def test_text_is_changed_where_it_differs(old: str, new: str) -> None:
    document: Doc[Any] = Doc()
    text: Text = document.get("title", type=Text)
    text.insert(0, old)

    set_text(text, new)

    assert str(text) == new
