"""A stored log as the doctor reads it: nothing is taken for granted, everything that can be read is read."""

from collections.abc import Sequence
from typing import NamedTuple

from constructure_sync.errors import ProtocolViolation
from constructure_sync.persistence.compactor import decode_pieces
from constructure_sync.replica.examination import ExaminedSegment, Finding
from schemas.ids import Seq
from storage.contracts import StoredSegment
from storage.repair import LogContent


class Labelled(NamedTuple):
    """One update of a history. seq: of its row; None for a piece of a segment."""

    place: str
    seq: Seq | None
    payload: bytes


class Decoded(NamedTuple):
    """The segments that can be read, the update rows behind them, and what is wrong with the log as a whole."""

    segments: list[ExaminedSegment]
    tail: dict[int, bytes]
    findings: list[Finding]


def decode(content: LogContent) -> Decoded:
    """Return a log's parts, and where Seqs are missing, segments overlap or cannot be read, or the head is another one."""
    findings = list[Finding]()
    rows = {int(update.seq): update.payload for update in content.updates}
    segments = []
    covered = 0
    for segment in content.segments:
        if segment.first != covered + 1 or segment.last < segment.first:
            findings.append(Finding(f"segment {segment.first}-{segment.last}", f"does not follow update {covered}"))
        covered = max(covered, segment.last)
        decoded = _segment(segment, rows, findings)
        if decoded is not None:
            segments.append(decoded)
    tail = {seq: payload for seq, payload in rows.items() if seq > covered}
    findings += _holes(covered, content.head.seq, tail)
    if content.covered_seq != covered:
        findings.append(Finding("document", f"covered_seq is {content.covered_seq}, segments reach to {covered}"))
    if content.head_row not in (None, content.head.commit):
        findings.append(Finding("document", "the head's commit is not the one that wrote its update"))
    return Decoded(segments, tail, findings)


def _segment(segment: StoredSegment, rows: dict[int, bytes], findings: list[Finding]) -> ExaminedSegment | None:
    place = f"segment {segment.first}-{segment.last}"
    try:
        pieces, summaries = decode_pieces(segment.payload), decode_pieces(segment.summary)
    except ProtocolViolation as violation:
        findings.append(Finding(place, f"malformed: {violation.reason}"))
        return None
    if len(pieces) != len(summaries):
        findings.append(Finding(place, f"{len(pieces)} pieces, but {len(summaries)} summaries"))
        return None
    stored = {seq: payload for seq, payload in rows.items() if segment.first <= seq <= segment.last}
    return ExaminedSegment(segment.first, segment.last, pieces, summaries, stored)


def _holes(covered: int, head: int, tail: dict[int, bytes]) -> list[Finding]:
    findings = []
    expected = covered + 1
    for seq in [*tail, head + 1]:
        if seq > head + 1:
            findings.append(Finding(f"update {seq}", f"lies behind the head, which is {head}"))
        elif seq > expected:
            last = f"-{seq - 1}" if seq - 1 > expected else ""
            findings.append(Finding(f"update {expected}{last}", "is not stored"))
        expected = max(expected, seq + 1)
    return findings


class Sources(NamedTuple):
    """What a log can be rebuilt from. unreadable: segments that are needed and cannot be read at all."""

    updates: list[Labelled]
    unreadable: Sequence[StoredSegment]


def sources(content: LogContent) -> Sources:
    """Return segments for as long as rows are missing behind them, then rows, which are what clients really wrote (R2).

    Rows that are stored before that point follow, too: they may hold what a damaged segment lost.
    """
    rows = {update.seq for update in content.updates}
    boundary = Seq(content.head.seq)
    while boundary > 0 and boundary in rows:
        boundary = Seq(boundary - 1)
    updates: list[Labelled] = []
    unreadable: list[StoredSegment] = []
    for segment in content.segments:
        if segment.first > boundary:
            continue
        place = f"segment {segment.first}-{segment.last}"
        try:
            pieces = decode_pieces(segment.payload)
        except ProtocolViolation:
            unreadable.append(segment)
            continue
        updates += [Labelled(f"{place}, piece {number}", None, piece) for number, piece in enumerate(pieces, start=1)]
    updates += [Labelled(f"update {row.seq}", row.seq, row.payload) for row in content.updates]
    return Sources(updates, unreadable)
