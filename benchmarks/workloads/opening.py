"""What does it take to open a course that has been edited for long, and what did it cost to keep it open all the while?"""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial

from benchmarks.check import check, content, expectation
from benchmarks.figures import Case, Figures, quantile
from benchmarks.generator import Client, Generator
from benchmarks.knobs import Knobs
from benchmarks.load import new_generator
from benchmarks.servers import MIB, Target, embedded, pin, resident, rest
from benchmarks.wire import LoadFailed

_WRITERS = 4
_WINDOW = 50  # edits on their way
_LONG_TAIL = (
    1_000  # edits: a tail so long is read in a worker process, and the first one after a start waits for it to begin
)


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each length of a history."""
    return [
        Case(f"a course after {edits:,} edits", partial(_measure, edits, knobs.history_joins))
        for edits in knobs.history_edits
    ]


def _measure(edits: int, joins: int) -> Figures:
    with embedded(2) as target:
        with new_generator() as generator:
            _grow(generator, target, 1, _LONG_TAIL)
            rest(target.server)
            before = resident(target.server)
            _grow(generator, target, 0, edits)
            check(generator, target.urls())
            expected = expectation([client for client in generator.clients if client.room == 0])
            rest(target.server)
            grown = resident(target.server) - before
        target.server.stop()
        rows, segments = _log(target)
        target.server.start()
        pin(target.server)
        after_start = _open(target, 1)
        rest(target.server)
        before = resident(target.server)
        first = _open(target, 0)
        opened = resident(target.server) - before
        further = [_open(target, 0) for _ in range(joins)]
    if any(content(client) != expected for _, client in (first, further[-1])):
        raise LoadFailed("the course came back as another one")
    return {
        "first join ms": first[0] * 1e3,
        f"first join of all after a start ({_LONG_TAIL} edits) ms": after_start[0] * 1e3,
        "further joins p50 ms": quantile([seconds for seconds, _ in further], 0.5) * 1e3,
        "KiB that a joiner gets": sum(map(len, first[1].received)) / 1024,
        "MiB more after the first join": opened / MIB,
        "MiB more after all edits in an open room": grown / MIB,
        "segments in the log": segments,
        "single updates in the log": rows,
    }


def _grow(generator: Generator, target: Target, course: int, edits: int) -> None:
    """Make so many edits, as fast as somebody else in the room sees them."""
    writers = [generator.join(target.url(course), course, is_observer=False) for _ in range(_WRITERS)]
    observer = generator.join(target.url(course), course)
    made = 0
    while made < edits:
        if made - observer.arrived < _WINDOW:
            generator.edit(writers[made % _WRITERS])
            made += 1
        else:
            generator.poll(0.05)
    generator.settle()


def _open(target: Target, course: int) -> tuple[float, Client]:
    """Join once; return the seconds that it took, and the client, whose line is closed."""
    started = time.perf_counter()
    client = Client(target.url(course), course, 1, is_observer=False, wants_receipts=False)
    seconds = time.perf_counter() - started
    client.close()
    return seconds, client


def _log(target: Target) -> tuple[int, int]:
    """Return the numbers of single updates behind the last segment, and of segments, of the course that grew."""
    with closing(sqlite3.connect(target.server.data_dir / "constructure.db")) as database:
        segments, last, document = database.execute(
            "SELECT count(s.first_seq), coalesce(max(s.last_seq), 0), d.id FROM documents d"
            " LEFT JOIN document_segments s ON s.document_id = d.id GROUP BY d.id ORDER BY d.head_seq DESC LIMIT 1"
        ).fetchone()
        (rows,) = database.execute(
            "SELECT count(*) FROM document_updates WHERE document_id = ? AND seq > ?", (document, last)
        ).fetchone()
    return rows, segments
