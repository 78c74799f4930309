"""What does a course cost that has been edited for very long, beside a stock Yjs document of the same edits?

Three stock clients' edits, made beforehand, go through one socket into a course. The server is killed right after the last
receipt, started, and the course opened: a log with a tail of single updates. Then it is left alone until it has compacted the log,
started anew, and the course is opened again. `python -m benchmarks own history --edits 1000000` measures a million.
"""

import select
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Final

from pycrdt import Doc, Map

from benchmarks.check import updates_of
from benchmarks.figures import Case, Figures, quantile
from benchmarks.generator import SETTLE_SECONDS, Client
from benchmarks.histories import Opened, history_of, opened_in_stock
from benchmarks.knobs import Knobs
from benchmarks.servers import MIB, Target, embedded, pin, resident, rest
from benchmarks.wire import LoadFailed, NotNow

_WINDOW: Final = 2_000  # edits that have no receipt yet
_SEND_AT_ONCE: Final = 200
_COMPACT_SECONDS: Final = 120.0
_IDLE_SECONDS: Final = "1"  # until a course that nobody has open is closed, and its log compacted
_OPEN_SECONDS, _RETRY_SECONDS = 120.0, 0.1
_LOOKS: Final = 3  # processes in which stock Yjs opens it; the median counts


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each length."""
    return [
        Case(f"a course after {edits:,} edits by stock clients", partial(history, edits, knobs))
        for edits in knobs.histories
    ]


def history(edits: int, knobs: Knobs) -> Figures:
    """Measure one history. Absent: Node, with the packages of the tests, is not here."""
    made = history_of(edits)
    with embedded(2, room_idle_seconds=_IDLE_SECONDS) as target:
        _warm_up(target)
        before = resident(target.server)
        started = time.perf_counter()
        _write(target, made.updates)
        growing = time.perf_counter() - started
        rest(target.server)
        grown = resident(target.server) - before
        target.server.kill()
        tail = uncovered(target)
        right_after = _opened(target)
        _await_compaction(target)
        target.server.stop()
        compacted = _opened(target)
        further = quantile([_join(target)[0] for _ in range(knobs.history_joins)], 0.5)
    stock = _stock([made.state], None)
    joined = _stock(updates_of(compacted[1]), made.state)
    opened_in_stock(updates_of(right_after[1]), [made.state])  # it holds the same
    return {
        "edits": len(made.updates),
        "edits/s while it grew": len(made.updates) / growing,
        "MiB more after all edits in the open room": grown / MIB,
        **_told("killed right after", right_after[0]),
        "single updates in the log then": tail,
        **_told("compacted", compacted[0]),
        **_told("stock Yjs", stock),
        "compacted: time beside stock": compacted[0].seconds / stock.seconds,
        "compacted: memory beside stock": compacted[0].memory / max(stock.memory, MIB / 100),
        "further joins p50 ms": further * 1e3,
        "KiB that a joiner gets": sum(map(len, compacted[1].received)) / 1024,
        "KiB that stock Yjs encodes": len(made.state) / 1024,
        "a joiner with stock Yjs reads it in ms": joined.seconds * 1e3,
        "a joiner with pycrdt reads it in ms": _pycrdt_seconds(updates_of(compacted[1])) * 1e3,
    }


def uncovered(target: Target) -> int:
    """Return the number of single updates behind the last segment, of the course with the longest log."""
    with closing(sqlite3.connect(target.server.data_dir / "constructure.db")) as database:
        (rows,) = database.execute(
            "SELECT d.head_seq - coalesce((SELECT max(last_seq) FROM document_segments WHERE document_id = d.id), 0)"
            " FROM documents d ORDER BY d.head_seq DESC LIMIT 1"
        ).fetchone()
    return int(rows)


def _told(name: str, opened: Opened) -> Figures:
    return {f"{name}: opened in ms": opened.seconds * 1e3, f"{name}: MiB more": opened.memory / MIB}


def _warm_up(target: Target) -> None:
    """Have the other course used, so that what is made once is not counted."""
    writer = Client(target.url(1), 1, 1, is_observer=False, wants_receipts=True)
    for number in range(20):
        writer.save(writer.author.edit(number))
    writer.close()
    rest(target.server)


def _write(target: Target, updates: Sequence[bytes]) -> None:
    """Send all updates, and return when the last has its receipt."""
    writer = Client(target.url(0), 0, 1, is_observer=False, wants_receipts=True)
    for first in range(0, len(updates), _SEND_AT_ONCE):
        for update in updates[first : first + _SEND_AT_ONCE]:
            writer.put(update, time.perf_counter())
        writer.flush()
        _await_receipts(writer, _WINDOW)
    _await_receipts(writer, 0)
    writer.close()


def _await_receipts(writer: Client, most: int) -> None:
    """Read until at most so many edits have no receipt. LoadFailed: nothing comes for long."""
    while len(writer.waiting) > most:
        ready, _, _ = select.select([writer.fd], [], [], SETTLE_SECONDS)
        if not ready:
            raise LoadFailed("receipts do not come")
        writer.take_control(writer.read(), time.perf_counter())


def _opened(target: Target) -> tuple[Opened, Client]:
    """Start the server and open the course; return what that took, and the client, whose line is closed."""
    target.server.start()
    pin(target.server)
    _warm_up(target)
    before = resident(target.server)
    seconds, client = _join(target)
    return Opened(seconds, resident(target.server) - before), client


def _join(target: Target) -> tuple[float, Client]:
    """Join once, trying again as providers do while the server says that it takes too long; return the seconds in all."""
    started = time.perf_counter()
    client = None
    while client is None:
        try:
            client = Client(target.url(0), 0, 1, is_observer=False, wants_receipts=False)
        except NotNow:
            if time.perf_counter() - started > _OPEN_SECONDS:
                raise
            time.sleep(_RETRY_SECONDS)
    seconds = time.perf_counter() - started
    client.close()
    return seconds, client


def _await_compaction(target: Target) -> None:
    """Wait until the server has compacted what nobody has open. LoadFailed: it does not."""
    deadline = time.monotonic() + _COMPACT_SECONDS
    while uncovered(target):
        if time.monotonic() > deadline:
            raise LoadFailed("the log was not compacted")
        time.sleep(0.2)


def _stock(updates: Sequence[bytes], same_as: bytes | None) -> Opened:
    """Return the medians of some fresh processes; LoadFailed: the updates make another document than stock Yjs has."""
    looks = [opened_in_stock(updates, None if same_as is None else [same_as]) for _ in range(_LOOKS)]
    return Opened(quantile([look.seconds for look in looks], 0.5), quantile([look.memory for look in looks], 0.5))


def _pycrdt_seconds(updates: Sequence[bytes]) -> float:
    document: Doc[Map[object]] = Doc()
    started = time.perf_counter()
    for update in updates:
        document.apply_update(update)
    return time.perf_counter() - started
