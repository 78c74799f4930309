"""What worker processes do: pure functions of module level, so that they and their arguments can be pickled."""

from collections.abc import Sequence
from typing import NamedTuple

import pycrdt

from constructure_sync.errors import ConstructureError
from constructure_sync.protocol.closed_part import ClosedPart, Summary
from constructure_sync.protocol.id_ranges import Range
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, STORED_LIMITS, UpdateLimits
from constructure_sync.protocol.update_writer import collect_garbage, join_summarized, join_updates, split_update
from constructure_sync.replica.pool import Panic

SEED_CLIENT = 1
"""Client id of every first update: the same course seeded twice would be the same bytes, not a doubled title."""


class CompactionMismatch(ConstructureError):
    """What compaction made is not what went in. Nothing was stored; the log stays as it is."""


class FoldedPiece(NamedTuple):
    """A segment of a room's history. ranges: (client, first clock, end clock) of its structs."""

    update: bytes
    ranges: tuple[Range, ...]
    has_deletes: bool


def close_update(known: Known, update: bytes, limits: UpdateLimits = DEFAULT_LIMITS) -> ClosedPart:
    """Return the closed part of a large update. Raises ProtocolViolation."""
    return known.close(update, limits)


def fold(updates: Sequence[bytes], segment_bytes: int) -> list[FoldedPiece]:
    """Join updates that follow one another in a history into pieces of about `segment_bytes`.

    An update that alone is larger stays whole: what it needs lies before it, and here only its own bytes are known.
    """
    pieces: list[FoldedPiece] = []
    group: list[bytes] = []
    size = 0
    for update in updates:
        if group and size + len(update) > segment_bytes:
            pieces += (FoldedPiece(*joined) for joined in join_summarized(group))
            group, size = [], 0
        group.append(update)
        size += len(update)
    if group:
        pieces += (FoldedPiece(*joined) for joined in join_summarized(group))
    return pieces


def replay(summaries: Sequence[bytes], updates: Sequence[bytes], segment_bytes: int) -> tuple[Known, list[FoldedPiece]]:
    """Return what a stored document's room knows, and its updates behind the segments folded into pieces."""
    known = Known()
    for summary in summaries:
        known.add_summary(Summary.decode(summary))
    parts = []
    for update in updates:
        # After a repair a stored update may wait for what was taken out: clients are sent what integrates.
        parts.append(known.close(update, STORED_LIMITS))
        known.add(parts[-1])
    return known, fold([part.update for part in parts], segment_bytes)


class StoredPieces(NamedTuple):
    """One stored segment: its updates in order, and the summary of each."""

    updates: Sequence[bytes]
    summaries: Sequence[bytes]


class Compacted(NamedTuple):
    """kept: how many segments stay as they are, from the first on. pieces: what stands behind them, with summaries."""

    kept: int
    pieces: list[tuple[bytes, bytes]]


def compact_tail(
    segments: Sequence[StoredPieces], updates: Sequence[bytes], share: float, segment_bytes: int
) -> Compacted:
    """Return the updates behind the segments as one segment more, together with those segments that are worth rewriting.

    A segment is rewritten when what comes after it, collected, weighs at least `share` of its bytes: segments then grow
    geometrically towards the first, and all rewriting of a byte adds up to few times. Raises CompactionMismatch.
    """
    known = _known_of(segments)
    whole = known.copy()
    parts = _take(whole, updates)
    pieces = _collected(updates, known, whole, segment_bytes)
    tail = [update for update, _ in pieces]
    kept, weight = len(segments), _weight(tail, Summary.merge(parts))
    while kept and weight >= share * sum(map(len, segments[kept - 1].updates)):
        kept -= 1
        if kept:
            summary = Summary.merge(map(Summary.decode, segments[kept].summaries))
            weight += _weight(segments[kept].updates, summary)
    if kept < len(segments):
        rewritten = [update for segment in segments[kept:] for update in segment.updates]
        pieces = _collected([*rewritten, *tail], _known_of(segments[:kept]), whole, segment_bytes)
    return Compacted(kept, pieces)


def _known_of(segments: Sequence[StoredPieces]) -> Known:
    known = Known()
    for segment in segments:
        for summary in segment.summaries:
            known.add_summary(Summary.decode(summary))
    return known


def _weight(updates: Sequence[bytes], summary: Summary) -> int:
    """Return their bytes and the clocks that they delete of what lies before: about what rewriting that would free."""
    first = {client: start for client, start, _ in summary.ranges}
    deleted = sum(max(min(end, first.get(client, end)) - start, 0) for client, start, end in summary.deletes)
    return sum(map(len, updates)) + deleted


def compact(updates: Sequence[bytes], segment_bytes: int) -> list[tuple[bytes, bytes]]:
    """Return a whole history, joined, its garbage collected, in pieces of about `segment_bytes` with their summaries.

    updates: a closed history from its beginning. Raises CompactionMismatch.
    """
    whole = Known()
    _take(whole, updates)
    return _collected(updates, Known(), whole, segment_bytes)


def _take(known: Known, updates: Sequence[bytes]) -> list[ClosedPart]:
    """Know the updates, too; return them as closed parts."""
    parts: list[ClosedPart] = []
    for update in updates:
        part = known.close(update, STORED_LIMITS)
        if part.missing:  # after a repair: what waits for the rest must not be dropped
            raise CompactionMismatch("the history is not closed")
        known.add(part)
        parts.append(part)
    return parts


def _collected(updates: Sequence[bytes], known: Known, whole: Known, segment_bytes: int) -> list[tuple[bytes, bytes]]:
    """Return updates that follow on what is known as collected pieces with summaries. whole: what is known after them.

    Each piece is read again as it was made, and all of them compared with what went in (R7).
    """
    pieces: list[tuple[bytes, bytes]] = []
    for joined in join_updates(updates):
        for piece in split_update(collect_garbage(joined, whole.deletes), known, segment_bytes):
            part = known.close(piece, STORED_LIMITS)
            if part.missing:
                raise CompactionMismatch("a piece is not closed")
            known.add(part)
            pieces.append((piece, Summary.of(part).encode()))
    if known.clocks != whole.clocks or known.deletes != whole.deletes:
        raise CompactionMismatch("clocks or deletes differ")
    return pieces


def merge_updates(updates: Sequence[bytes]) -> bytes:
    """Return one update that holds all of these, gaps included, as pycrdt merges them. Raises Panic, ValueError."""
    try:
        return pycrdt.merge_updates(*updates)
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of pyo3: a BaseException without a public import
            raise Panic(str(error)) from None
        raise


def new_course_document(course_id: str, title: str, created_by: str, created_at: int) -> bytes:
    """Return the first update of a course's document: its `meta` and `title` (course-document schema 1).

    created_at: epoch milliseconds. Written once, when the course is made; never on load.
    """
    meta: pycrdt.Map[object] = pycrdt.Map()
    text = pycrdt.Text()
    document: pycrdt.Doc[pycrdt.Map[object] | pycrdt.Text] = pycrdt.Doc(
        {"meta": meta, "title": text}, client_id=SEED_CLIENT
    )
    with document.transaction():
        meta.update({"schema": 1, "courseId": course_id, "createdBy": created_by, "createdAt": created_at})
        text.insert(0, title)
    return document.get_update()
