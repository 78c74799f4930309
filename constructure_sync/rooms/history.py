"""What a room holds: segments, then a tail of single updates, in the order in which the room took them.

Everything is kept as the bytes that clients are sent: framed once, shared by all who need them. Every prefix is closed: it
loads in any client with nothing pending (design §3).

A *position* numbers the places between pieces. Tail entries have one position each and keep it for life; segments are
numbered downwards from the tail, so that folding may make more segments than it used up entries; cursors move with `moved`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from constructure_sync.protocol.framing import frame, framed_update
from constructure_sync.protocol.known import ClosedPart, Known
from constructure_sync.protocol.messages import sync_step1, sync_step2
from constructure_sync.protocol.state_vector import encode_state_vector
from constructure_sync.protocol.update_writer import EMPTY_UPDATE, delete_set_update
from constructure_sync.replica.jobs import FoldedPiece
from schemas.ids import UserId

Ranges = Sequence[tuple[int, int, int]]

_DELETES_BEHIND: Final = 64  # entries after which the frame of all deletes is made anew for who asks


def covers(state_vector: Mapping[int, int], ranges: Ranges) -> bool:
    """Tell whether someone with this state vector has every struct of these (client, start, end) ranges."""
    get = state_vector.get
    return all(get(client, 0) >= end for client, _, end in ranges)


class Piece:
    """A stretch of the history, as clients are sent it.

    ranges: (client, first clock, end clock) of its structs; size: bytes of its update, with which `framed` ends.
    """

    __slots__ = ("framed", "has_deletes", "ranges", "size")

    def __init__(self, update: bytes, ranges: Ranges, has_deletes: bool) -> None:
        self.framed = framed_update(update)
        self.size = len(update)
        self.ranges = ranges
        self.has_deletes = has_deletes

    @property
    def update(self) -> bytes:
        return self.framed[-self.size :]


class Segment(Piece):
    """Old updates merged into one of about `segment_bytes`. All of it is saved."""

    __slots__ = ()

    def __init__(self, update: bytes, ranges: Ranges, has_deletes: bool) -> None:
        # Compaction puts deletes into a piece of their own, behind structs that imply them: its summary tells of none.
        super().__init__(update, ranges, has_deletes or not ranges)


class Entry(Piece):
    """One update as it was taken. origin: number of the connection it came from, which is not sent it again; 0: the log."""

    __slots__ = ("origin", "taken_at", "user_id")

    def __init__(
        self, update: bytes, ranges: Ranges, has_deletes: bool, origin: int, user_id: UserId | None, taken_at: float
    ) -> None:
        self.framed = framed_update(update)  # once more here: a call of its own costs too much for each edit
        self.size = len(update)
        self.ranges = ranges
        self.has_deletes = has_deletes
        self.origin = origin
        self.user_id = user_id
        self.taken_at = taken_at


class Stretch:
    """Entries that stand one behind the other in the tail, as one piece: a single write of bytes that all joiners share.

    ranges: of all its structs; end: the position behind it; origins: numbers of the connections that its entries came from.
    """

    __slots__ = ("end", "framed", "has_deletes", "origins", "ranges")

    def __init__(self, entries: Sequence[Entry], end: int) -> None:
        ends: dict[int, int] = {}
        for entry in entries:
            for client, _, last in entry.ranges:
                ends[client] = max(last, ends.get(client, 0))
        self.framed = b"".join([entry.framed for entry in entries])
        self.ranges = [(client, 0, last) for client, last in ends.items()]
        self.has_deletes = any(entry.has_deletes for entry in entries)
        self.origins = frozenset([entry.origin for entry in entries])
        self.end = end


@dataclass(frozen=True, slots=True)
class Folded:
    """How cursors that stand below `tail_start` move after a fold: see `History.moved`."""

    first_replaced: int
    old_tail_start: int
    old_segments: int


class History:
    """Segments and tail of one document, and what is known of it. One writer: the room (R3)."""

    __slots__ = (
        "_deletes_end",
        "_deletes_frame",
        "_question",
        "_question_at",
        "_saved_bytes",
        "_seen",
        "_seen_bytes",
        "_stretched",
        "_stretches",
        "known",
        "saved",
        "segments",
        "size",
        "tail",
        "tail_start",
    )

    def __init__(self) -> None:
        self.known = Known()
        self.segments: list[Segment] = []
        self.tail: list[Entry] = []
        self.tail_start = 0
        self.saved = 0  # position before which everything has been in the log
        self.size = 0
        self._deletes_frame = b""
        self._deletes_end = 0  # position before which that frame holds every delete
        self._question = b""
        self._question_at = -1  # the head when that was made
        self._saved_bytes = 0  # of the tail
        self._stretches: dict[int, Stretch] = {}
        self._stretched = 0  # position up to which the tail is cut into them
        self._seen = 0  # position up to which it was looked at for the next one, and the bytes between the two
        self._seen_bytes = 0

    @property
    def head(self) -> int:
        """The position after the last entry."""
        return self.tail_start + len(self.tail)

    @property
    def first(self) -> int:
        """The position of the first piece."""
        return self.tail_start - len(self.segments)

    def load_segment(self, update: bytes, ranges: Ranges, has_deletes: bool) -> None:
        """Take a stored segment, of which `known` knows already; only while the tail is empty."""
        self.segments.append(Segment(update, ranges, has_deletes))
        self.size += len(update)

    def append(self, part: ClosedPart, origin: int, user_id: UserId | None, taken_at: float) -> Entry:
        """Take the closed part of an update at the head."""
        self.known.add(part)
        update, ranges, deletes, _, _ = part
        entry = Entry(update, ranges, bool(deletes), origin, user_id, taken_at)
        self.tail.append(entry)
        self.size += len(update)
        return entry

    def piece(self, position: int) -> Piece:
        """Return the piece that begins at this position; IndexError outside first..head."""
        index = position - self.tail_start
        if index >= 0:
            return self.tail[index]
        if position < self.first:
            raise IndexError(position)
        return self.segments[index]

    def pieces(self) -> list[tuple[int, Piece]]:
        """Return every piece with its position."""
        pieces: list[Piece] = [*self.segments, *self.tail]
        return list(enumerate(pieces, self.first))

    def mark_saved(self, position: int) -> None:
        """Everything before this position is in the log."""
        if position > self.saved:
            begin, end = self.saved - self.tail_start, position - self.tail_start
            self._saved_bytes += sum([entry.size for entry in self.tail[begin:end]])
            self.saved = position

    def foldable(self, segment_bytes: int, fold_entries: int) -> int:
        """Return how many saved entries at the tail's beginning are worth a segment now, at most `fold_entries`; 0: none."""
        count = self.saved - self.tail_start
        return min(count, fold_entries) if self._saved_bytes >= segment_bytes or count >= fold_entries else 0

    def fold(self, first_replaced: int, entries: int, merged: Iterable[FoldedPiece]) -> Folded:
        """Put segments in the place of the segments from index `first_replaced` on and of the first `entries` of the tail.

        The new segments hold the same content; cursors below the new tail are moved with `moved`.
        """
        folded = Folded(first_replaced, self.tail_start, len(self.segments))
        replaced: list[Piece] = [*self.segments[first_replaced:], *self.tail[:entries]]
        self.size -= sum(piece.size for piece in replaced)
        self._saved_bytes -= sum(entry.size for entry in self.tail[:entries])
        segments = [Segment(piece.update, piece.ranges, piece.has_deletes) for piece in merged]
        self.size += sum(piece.size for piece in segments)
        self.segments[first_replaced:] = segments
        del self.tail[:entries]
        self.tail_start += entries
        self._stretches = {start: each for start, each in self._stretches.items() if start >= self.tail_start}
        self._deletes_frame = b""  # the positions that it tells apart are of the old segments
        return folded

    def moved(self, position: int, folded: Folded) -> int:
        """Return where a cursor that stood at `position` before the fold stands now: what it had half taken, it takes again."""
        if position >= self.tail_start:
            return position
        index = position - folded.old_tail_start + folded.old_segments
        if index < 0:
            return position  # this cursor has not been set yet
        return self.first + min(index, folded.first_replaced)

    def stretches(self, stretch_bytes: int) -> Mapping[int, Stretch]:
        """Return the stretches of the tail, by the position where each begins. What is too little for one is in none yet."""
        if self._stretched < self.tail_start:
            self._stretched = self._seen = self.tail_start
            self._seen_bytes = 0
        for entry in self.tail[self._seen - self.tail_start :]:
            self._seen += 1
            self._seen_bytes += len(entry.framed)
            if self._seen_bytes >= stretch_bytes:
                entries = self.tail[self._stretched - self.tail_start : self._seen - self.tail_start]
                self._stretches[self._stretched] = Stretch(entries, self._seen)
                self._stretched, self._seen_bytes = self._seen, 0
        return self._stretches

    def question(self) -> bytes:
        """Return the framed SyncStep1 that asks for what is not known, made once for all who are asked at this head."""
        if self._question_at != self.head:
            self._question = frame(sync_step1(encode_state_vector(self.known.clocks)))
            self._question_at = self.head
        return self._question

    def deletes_end(self) -> int:
        """Return the position before which an answer may leave deletes out: `deletes_frame`, which ends it, will hold them."""
        if self._deletes_frame and self.head - self._deletes_end > _DELETES_BEHIND:
            self._deletes_frame = b""
        return self._deletes_end if self._deletes_frame else self.head

    def deletes_frame(self) -> bytes:
        """Return the framed SyncStep2 that holds every delete before `deletes_end`, made once for many who ask."""
        if not self._deletes_frame:
            self._deletes_frame = frame(sync_step2(delete_set_update(self.known.deletes)))
            self._deletes_end = self.head
        return self._deletes_frame


EMPTY_STEP2 = frame(sync_step2(EMPTY_UPDATE))
