"""The deriver brings SQL's titles up to what is saved, from what rooms hand it, and from the log where that has a gap."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast
from uuid import UUID

from pycrdt import Doc, Text, TransactionEvent

from constructure_sync.graph import deriver as deriver_module
from constructure_sync.graph.deriver import Deriver
from constructure_sync.replica import projection
from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import Append, Appended, NewUpdate, StoredUpdate
from storage.courses import Courses
from storage.memory import MemoryUpdateLog
from tests.properties.simulator.loop import VirtualLoop, run_virtually

Result = TypeVar("Result")

DOCUMENT = DocumentId(UUID(int=7))


class Log(MemoryUpdateLog):
    """Counts how often its rows are read one by one."""

    reads = 0

    async def history(self, document_id: DocumentId, first: Seq, last: Seq) -> Sequence[StoredUpdate]:
        self.reads += 1
        return await super().history(document_id, first, last)


class Titles:
    """The courses' titles as they were derived, the newest last."""

    def __init__(self) -> None:
        self.derived: list[tuple[Seq, str | None]] = []

    async def underived(self, limit: int) -> Sequence[DocumentId]:
        return []

    async def set_derived(self, document_id: DocumentId, seq: Seq, title: str | None) -> bool:
        self.derived.append((seq, title))
        return True


class InPlace:
    """A worker that computes in this process."""

    async def run(self, function: Callable[..., Result], /, *arguments: object, timeout: float) -> Result:
        return function(*arguments)


class Course:
    """A document whose title grows by a letter with each edit, its log, and the deriver that follows."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.log = Log(loop.time)
        self.log.create(DOCUMENT)
        self.titles = Titles()
        self.deriver = Deriver(self.log, cast(Courses, self.titles), InPlace())
        self._text = Text()
        self._document: Doc[Text] = Doc({"title": self._text}, client_id=1)
        self._updates: list[bytes] = []
        self._subscription = self._document.observe(self._keep)

    def _keep(self, event: TransactionEvent) -> None:
        self._updates.append(event.update)

    async def save(self, letters: str, *, is_told: bool = True) -> None:
        """Save an edit for each letter. is_told: whether the deriver is told of them, as it is not of other instances' commits."""
        for letter in letters:
            self._text += letter
        updates, self._updates = self._updates, []
        head = (await self.log.heads([DOCUMENT]))[DOCUMENT]
        new = [NewUpdate(update, None) for update in updates]
        (result,) = await self.log.append([Append(DOCUMENT, head, CommitId(head.seq + 1), new, [])])
        assert isinstance(result, Appended)
        if is_told:
            self.deriver.saved(DOCUMENT, result.first, updates)

    async def derived(self, seq: int) -> str | None:
        """Return the title that was derived up to this Seq, once it is."""
        async with asyncio.timeout(60):
            while not self.titles.derived or self.titles.derived[-1][0] < seq:
                await asyncio.sleep(0.1)
        return self.titles.derived[-1][1]


def on_a_course(body: Callable[[Course], Awaitable[None]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        course = Course(loop)
        running = loop.create_task(course.deriver.run())
        await body(course)
        running.cancel()

    projection._held.clear()
    run_virtually(main)


def test_what_was_just_saved_is_derived_without_reading_the_log_back() -> None:
    async def body(course: Course) -> None:
        await course.save("Grap")
        assert await course.derived(4) == "Grap"
        await course.save("h")
        await course.save("s")
        assert await course.derived(6) == "Graphs"
        await course.save(" and trees")
        assert await course.derived(16) == "Graphs and trees"
        assert course.log.reads == 0

    on_a_course(body)


def test_R6_a_gap_that_other_instances_commits_leave_is_read_from_the_log() -> None:
    async def body(course: Course) -> None:
        await course.save("a")
        assert await course.derived(1) == "a"
        await course.save("b", is_told=False)
        await course.save("c")
        assert await course.derived(3) == "abc"
        assert course.log.reads == 1
        await course.save("d")
        await course.save("e", is_told=False)
        await course.save("f")
        assert await course.derived(6) == "abcdef"

    on_a_course(body)


def test_R13_what_waits_to_be_derived_is_bounded_and_read_from_the_log_beyond_that() -> None:
    async def body(course: Course) -> None:
        await course.save("a")
        assert await course.derived(1) == "a"
        await course.save("bcdefgh")
        assert await course.derived(8) == "abcdefgh"
        assert course.log.reads == 1
        await course.save("i")
        assert await course.derived(9) == "abcdefghi"
        assert course.log.reads == 1

    bound, deriver_module._FRESH_BYTES = deriver_module._FRESH_BYTES, 60
    try:
        on_a_course(body)
    finally:
        deriver_module._FRESH_BYTES = bound
