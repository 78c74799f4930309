"""What does an open course cost?"""

import random
import time
from collections.abc import Sequence
from functools import partial

from pycrdt import Doc, Map, Text

from benchmarks.crowd import Crowd, Visitor
from benchmarks.edits import Author
from benchmarks.figures import Case, Figures, quantile
from benchmarks.knobs import Knobs
from benchmarks.load import SEED
from benchmarks.servers import MIB, Loadable, Target, World, embedded, pin, resident, rest
from benchmarks.wire import LoadFailed

_WORDS = (
    "course",
    "lesson",
    "graph",
    "exercise",
    "sorting",
    "of",
    "the",
    "and",
    "begins",
    "teaches",
    "several",
    "people",
)

_WRITER = 1_000_000  # client id
_ROOTS = ("nodes", "layout", "edges")


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each size of a course."""
    return [
        Case(f"{count} open courses of {nodes:,} nodes", partial(room_memory, knobs, nodes, count, embedded))
        for nodes, count in knobs.course_nodes
    ]


def course_of(nodes: int, randomness: random.Random) -> bytes:
    """Return an update that makes the nodes of a course, their places, and an edge to each."""
    document: Doc[Map[object]] = Doc()
    root, layout, edges = (document.get(name, type=Map[object]) for name in _ROOTS)
    before = ""
    with document.transaction():
        for number in range(nodes):
            node = f"{randomness.getrandbits(60):015x}"
            described = " ".join(randomness.choices(_WORDS, k=randomness.randint(10, 80)))
            root[node] = Map(
                {
                    "kind": "lesson",
                    "life": 1.0,
                    "parent": "",
                    "ord": f"a{number:05d}",
                    "status": "draft",
                    "minutes": 20.0,
                }
                | {"title": Text(f"Lesson {number}"), "desc": Text(described)}
            )
            layout[f"flow/{node}"] = [float(randomness.randrange(4000)), float(randomness.randrange(4000))]
            if before:
                edges[f"pre:{before}>{node}"] = {"type": "pre", "from": before, "to": node}
            before = node
    return document.get_update()


def _content(updates: Sequence[bytes]) -> list[object]:
    """Return the content of a course."""
    document: Doc[Map[object]] = Doc()
    roots = [document.get(name, type=Map[object]) for name in _ROOTS]
    for update in updates:
        document.apply_update(update)
    return [root.to_py() for root in roots]


def room_memory(knobs: Knobs, nodes: int, rooms: int, world: World) -> Figures:
    """Measure by how much the serving process grows, once it is at rest, with so many open courses.

    Each is put in by one client, and another one stays. Ours is restarted before it is measured, since it may forget a course that
    nobody has open, and load it; others hold what they were given.
    """
    course = course_of(nodes, random.Random(SEED))
    with world(rooms + 1) as target, Crowd() as crowd:
        server, first = target.instances[0], Holder(crowd, target, rooms)
        first.bring(course)
        rest(server)
        before = resident(server)
        holders = [Holder(crowd, target, room) for room in range(rooms)]
        for holder in holders:
            holder.bring(course)
        joins: list[float] = []
        if isinstance(target, Target):
            for holder in (first, *holders):
                holder.leave()
            target.server.stop()
            target.server.start()
            pin(target.server)
            first.join()
            rest(server)
            before = resident(server)
            joins = [holder.join() for holder in holders]
        rest(server)
        memory = resident(server) - before
        expected = _content([course])
        if any(_content(holder.visitor.updates()) != expected for holder in (first, holders[-1])):
            raise LoadFailed("a course came back as another one")
        figures = {
            "KiB an open course, with one connection": memory / 1024 / rooms,
            "KiB the course as one update": len(course) / 1024,
            "MiB of the process before": before / MIB,
        }
        return figures | ({"first join p50 ms": quantile(joins, 0.5) * 1e3} if joins else {})


class Holder:
    """Who has a course open and does nothing."""

    def __init__(self, crowd: Crowd, target: Loadable, room: int) -> None:
        self._crowd = crowd
        self._target = target
        self._room = room
        self.join()

    def join(self) -> float:
        """Open the course with nothing at hand; return how many seconds it took to have all of it."""
        started = time.perf_counter()
        self.visitor = self._enter()
        return self.visitor.synced_at - started

    def _enter(self) -> Visitor:
        visitor = self._crowd.enter(Visitor(self._target.url(self._room), keeps=True))
        self._crowd.until(lambda: visitor.is_synced)
        return visitor

    def bring(self, course: bytes) -> None:
        """Have another client put the course in, and an edit behind it that shows when it is there; then it leaves."""
        writer = self._enter()
        self.visitor.watch()
        writer.send(course)
        writer.send(Author(_WRITER).edit(0))
        self._crowd.until(lambda: 0 in self.visitor.seen)
        self._crowd.leave(writer)

    def leave(self) -> None:
        """Close the course."""
        self._crowd.leave(self.visitor)
