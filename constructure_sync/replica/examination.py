"""Examining a stored log, in a worker that may not survive it: is every piece and row what it should be, and what can be saved."""

from collections.abc import Sequence
from typing import NamedTuple

import pycrdt

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.closed_part import ClosedPart, Summary
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.readers import read_update
from constructure_sync.replica.intake import WHOLE_DOCUMENTS, LeftOut, close_all, missing_words
from constructure_sync.replica.jobs import compact
from constructure_sync.replica.projection import raise_as_ours


class Finding(NamedTuple):
    """Something that is wrong. place: a segment, a piece of one, an update."""

    place: str
    problem: str


class ExaminedSegment(NamedTuple):
    """A stored segment, decoded. rows: the update rows that it covers, as far as they are stored, by Seq."""

    first: int
    last: int
    pieces: Sequence[bytes]
    summaries: Sequence[bytes]
    rows: dict[int, bytes]


class Census(NamedTuple):
    """What a log's updates hold. pending: how many updates wait, wholly or in part, for what is not there."""

    clients: int
    structs: int
    pending: int


class Rebuilt(NamedTuple):
    """pieces: with their summaries, as compaction makes them. left_out: what of the updates is not in them."""

    pieces: list[tuple[bytes, bytes]]
    left_out: list[LeftOut]


def count(updates: Sequence[bytes]) -> Census:
    """Return what these updates of one history hold; one that cannot be read counts as pending."""
    known = Known()
    structs = pending = 0
    for update in updates:
        try:
            part = known.close(update, WHOLE_DOCUMENTS)
            structs += sum(len(section.structs) for section in read_update(part.update, WHOLE_DOCUMENTS).sections)
        except ProtocolViolation:
            pending += 1
            continue
        known.add(part)
        pending += bool(part.missing)
    return Census(len(known.clocks), structs, pending)


def examine(segments: Sequence[ExaminedSegment], tail: dict[int, bytes], ignored: frozenset[int]) -> list[Finding]:
    """Return what is wrong with a log: malformed or unclosed updates, summaries and segments that differ from what they stand for.

    tail: the update rows behind the segments, by Seq. ignored: Seqs of updates that are known to be damaged.
    """
    known, findings = Known(), list[Finding]()
    for segment in segments:
        beginning = known.copy()
        for number, (piece, summary) in enumerate(zip(segment.pieces, segment.summaries, strict=True), start=1):
            place = f"segment {segment.first}-{segment.last}, piece {number}"
            part = _closed(known, piece, place, findings)
            if part is not None:
                known.add(part)
                if not _tells_of(summary, part):
                    findings.append(Finding(place, "its summary tells of something else"))
        _compare_with_rows(segment, beginning, known, ignored, findings)
    for seq, payload in tail.items():
        part = _closed(known, payload, f"update {seq}", [] if seq in ignored else findings)
        if part is not None:
            known.add(part)
    return findings


def _tells_of(summary: bytes, part: ClosedPart) -> bool:
    try:
        return Summary.decode(summary) == Summary.of(part)
    except ProtocolViolation:
        return False


def _compare_with_rows(
    segment: ExaminedSegment, known: Known, end: Known, ignored: frozenset[int], findings: list[Finding]
) -> None:
    """Compare a segment, which leads from `known` to `end`, with its update rows if none of them is purged."""
    is_complete = len(segment.rows) == segment.last - segment.first + 1
    if is_complete:
        seqs = list(segment.rows)
        left_out = close_all(known, list(segment.rows.values()))[1]
        findings += [Finding(f"update {seqs[at]}", reason) for at, reason in left_out if seqs[at] not in ignored]
    else:
        for seq, payload in segment.rows.items():
            _read(payload, f"update {seq}", [] if seq in ignored else findings)
    if is_complete and (known.clocks != end.clocks or known.deletes != end.deletes):
        place = f"segment {segment.first}-{segment.last}"
        findings.append(Finding(place, "it does not hold what its updates hold"))


def _closed(known: Known, update: bytes, place: str, findings: list[Finding]) -> ClosedPart | None:
    try:
        part = known.close(update, WHOLE_DOCUMENTS)
    except ProtocolViolation as violation:
        findings.append(Finding(place, f"malformed: {violation.reason}"))
        return None
    if part.missing:
        findings.append(Finding(place, missing_words(part.missing)))
    return part


def _read(update: bytes, place: str, findings: list[Finding]) -> None:
    try:
        read_update(update, WHOLE_DOCUMENTS)
    except ProtocolViolation as violation:
        findings.append(Finding(place, f"malformed: {violation.reason}"))


def first_fault(updates: Sequence[bytes]) -> tuple[int, str] | None:
    """Return the place of the first update that is malformed or not closed behind those before it, and what is wrong with it."""
    known = Known()
    for place, update in enumerate(updates):
        findings = list[Finding]()
        part = _closed(known, update, "", findings)
        if findings or part is None:
            return place, findings[0].problem
        known.add(part)
    return None


def project(updates: Sequence[bytes]) -> None:
    """Apply the updates to a pycrdt document and read it. Raises Panic, NotProjected."""
    document: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc()
    try:
        for update in updates:
            document.apply_update(update)
        document.get_update()
    except BaseException as error:
        raise_as_ours(error)


def rebuild(updates: Sequence[bytes], segment_bytes: int) -> Rebuilt:
    """Return everything that integrates of these updates, in whatever order they are, collected and verified (R7).

    Raises CompactionMismatch.
    """
    taken, left_out = close_all(Known(), updates)
    return Rebuilt(compact(taken, segment_bytes), left_out)
