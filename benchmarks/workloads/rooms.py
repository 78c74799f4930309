"""What does an open course cost?"""

import random
import time
from collections.abc import Sequence
from functools import partial

from pycrdt import Doc, Map, Text

from benchmarks.check import updates_of
from benchmarks.figures import Case, Figures, quantile
from benchmarks.generator import Client
from benchmarks.knobs import Knobs
from benchmarks.load import SEED, new_generator
from benchmarks.servers import MIB, embedded, pin, resident, rest
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

_ROOTS = ("nodes", "layout", "edges")


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each size of a course."""
    return [
        Case(f"{count} open courses of {nodes:,} nodes", partial(_measure, nodes, count))
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


def _course(updates: Sequence[bytes]) -> list[object]:
    """Return the content of a course."""
    document: Doc[Map[object]] = Doc()
    roots = [document.get(name, type=Map[object]) for name in _ROOTS]
    for update in updates:
        document.apply_update(update)
    return [root.to_py() for root in roots]


def _measure(nodes: int, count: int) -> Figures:
    course = course_of(nodes, random.Random(SEED))
    with embedded(count + 1) as target:
        for room in range(count + 1):
            writer = Client(target.url(room), room, 1, is_observer=False, wants_receipts=True)
            writer.save(course)
            writer.close()
        target.server.stop()
        target.server.start()
        pin(target.server)
        with new_generator() as generator:
            generator.join(target.url(count), count, is_observer=False)
            rest(target.server)
            before, joins = resident(target.server), []
            for room in range(count):
                started = time.perf_counter()
                client = generator.join(target.url(room), room, is_observer=False)
                joins.append(time.perf_counter() - started)
            memory = resident(target.server) - before
            if any(_course(updates_of(client)) != _course([course]) for client in (generator.clients[0], client)):
                raise LoadFailed("a course came back as another one")
    return {
        "KiB an open course, with one connection": memory / 1024 / count,
        "KiB the course as one update": len(course) / 1024,
        "first join p50 ms": quantile(joins, 0.5) * 1e3,
        "MiB of the process before": before / MIB,
    }
