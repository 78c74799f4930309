"""Where a segment may stand: the rules of UL5 and UL6 as plain functions, shared by every backend."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from schemas.ids import Seq
from storage.contracts import StoredSegment

Span = tuple[Seq, Seq]
"""First and last Seq, both included."""


@dataclass(frozen=True, slots=True)
class Place:
    """New segments that stand side by side over first..last, instead of the segments `replaces`."""

    first: Seq
    last: Seq
    replaces: frozenset[Span]

    def fits(self, stored: Sequence[Span], head: Seq) -> bool:
        """True when exactly `replaces` stand there now, and segments still cover 1..n without a hole afterwards.

        stored: the document's segments in order; they cover 1..n without a hole.
        """
        there = {span for span in stored if span[0] <= self.last and self.first <= span[1]}
        covered = stored[-1][1] if stored else 0
        return there == self.replaces and self.first <= covered + 1 and self.last <= head


def check_arguments(segments: Sequence[StoredSegment], replaces: Sequence[Span]) -> Place:
    """The place that `segments` take. ValueError: they are none, have holes, or do not cover `replaces`."""
    if not segments:
        raise ValueError("no segments given")
    if any(each.first > each.last for each in segments) or segments[0].first < 1:
        raise ValueError("a segment covers at least one update, and Seqs begin at 1")
    if any(left.last + 1 != right.first for left, right in pairwise(segments)):
        raise ValueError("segments given together stand side by side, in order")
    place = Place(segments[0].first, segments[-1].last, frozenset(replaces))
    if any(first < place.first or last > place.last for first, last in replaces):
        raise ValueError("a segment may only be replaced by segments that cover it")
    return place
