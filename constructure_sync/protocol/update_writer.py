"""Making updates out of updates, struct by struct and without a document: joining, splitting, collecting garbage.

An item of length n means n items of length one, each with the one before as origin and the same right origin. So
neighbours that are written so can be squashed into one, and one can be split, without changing what any client sees.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from constructure_sync.protocol.closed_part import Summary
from constructure_sync.protocol.closing import Closing
from constructure_sync.protocol.garbage import below_deleted
from constructure_sync.protocol.id_ranges import IdRanges, Range
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import read_var_uint, write_var_uint
from constructure_sync.protocol.readers import read_update
from constructure_sync.protocol.update_cut import EMPTY_UPDATE, Piece, delete_set_update, write_update
from constructure_sync.protocol.update_reader import (
    ANY,
    BINARY,
    DELETED,
    DOC,
    EMBED,
    FORMAT,
    GC,
    HAS_ORIGIN,
    HAS_PARENT_KEY,
    HAS_RIGHT_ORIGIN,
    REFERENCE,
    SKIP,
    STORED_LIMITS,
    STRING,
    TYPE,
    ParsedUpdate,
    Struct,
    skip_any,
)

__all__ = ["EMPTY_UPDATE", "Summary", "collect_garbage", "delete_set_update", "join_updates", "split_update"]

_COLLECTED = frozenset((BINARY, STRING, EMBED, FORMAT, TYPE, ANY, DOC))
"""Content that a deleted item loses."""


def join_updates(updates: Iterable[bytes]) -> list[bytes]:
    """Give few updates that hold what these hold, which follow one another in one history, each closed.

    Structs that came before are left out. Where one is known in part only, another update begins, so that structs stay
    whole. Delete sets are merged; neighbouring structs are squashed. No updates, or only empty ones, give an empty list.
    """
    return [joined.update for joined in join_summarized(updates)]


class Joined(NamedTuple):
    """Updates joined into one. ranges: (client, first clock, end clock) of its structs, one per client.

    has_deletes: whether its delete set or a struct that came deleted deletes something in a client that still has it.
    """

    update: bytes
    ranges: tuple[Range, ...]
    has_deletes: bool


def join_summarized(updates: Iterable[bytes]) -> list[Joined]:
    """Give what `join_updates` gives, and what each holds."""
    joined: list[Joined] = []
    gathered = _Gathered()
    for update in updates:
        parsed = read_update(update, STORED_LIMITS)
        if not gathered.takes(parsed):
            joined.append(gathered.write())
            gathered = _Gathered()
        gathered.append(parsed)
    last = gathered.write()
    if last.ranges or last.has_deletes:
        joined.append(last)
    return joined


def split_update(update: bytes, known_before: Known, max_bytes: int) -> list[bytes]:
    """Give the closed part of the update as several of at most `max_bytes` where whole structs allow.

    Each piece is closed when those before it are known; deletes come last.
    """
    parsed = read_update(update, STORED_LIMITS)
    closing = Closing(known_before.clocks, known_before.nesting, parsed, STORED_LIMITS)
    structs = dict(parsed.sections)
    pieces = [write_update(piece, ()) for piece in _struct_pieces(parsed.data, structs, closing, max_bytes)]
    deletes = closing.clip(known_before.deletes)[0]
    pieces += (write_update((), ranges) for ranges in _delete_pieces(deletes, max_bytes))
    return pieces


def collect_garbage(update: bytes, deletes: IdRanges) -> bytes:
    """Give the update with the content of deleted items replaced by their length, and neighbours squashed.

    deletes: what is deleted in the whole document. What is deleted below a deleted type becomes garbage: a length and no
    more. An item deleted in part is split; it stays as it is where that would take more bytes or part a surrogate pair.
    The delete set stays.
    """
    parsed = read_update(update, STORED_LIMITS)
    below = below_deleted(parsed, deletes)
    pieces = []
    for client, structs in parsed.sections:
        section = _SectionWriter(client, structs[0].clock)
        for struct, is_below in zip(structs, below[client], strict=True):
            if is_below and struct.kind == DELETED:
                section.append(*_garbage(struct.clock, struct.end))
            elif struct.kind in _COLLECTED and (deleted := deletes.within(client, struct.clock, struct.end)):
                for data, part in _without_deleted(parsed.data, struct, client, deleted, bool(is_below)):
                    section.append(data, part)
            else:
                section.append(parsed.data, struct)
        pieces.append(section.write())
    return write_update(pieces, parsed.deletes)


class _Gathered:
    """Updates of one history while they are joined."""

    def __init__(self) -> None:
        self._sections: dict[int, _SectionWriter] = {}
        self._deletes: list[Range] = []

    def takes(self, parsed: ParsedUpdate) -> bool:
        """Whether every section continues what is gathered at a struct's beginning."""
        for client, structs in parsed.sections:
            section = self._sections.get(client)
            if section is not None and structs[0].clock != section.end:
                after = next((struct for struct in structs if struct.end > section.end), None)
                if after is not None and after.clock != section.end:
                    return False
        return True

    def append(self, parsed: ParsedUpdate) -> None:
        for client, structs in parsed.sections:
            section = self._sections.get(client)
            if section is None:
                section = self._sections[client] = _SectionWriter(client, structs[0].clock)
            for struct in structs:
                if struct.end > section.end:
                    section.append(parsed.data, struct)
        self._deletes += parsed.deletes

    def write(self) -> Joined:
        # From the highest client down, as Yjs writes them: it integrates faster so.
        sections = sorted(self._sections.values(), key=lambda section: section.client, reverse=True)
        update = write_update([section.write() for section in sections], self._deletes)
        ranges = tuple((section.client, section.clock, section.end) for section in sections)
        return Joined(update, ranges, bool(self._deletes) or any(section.came_deleted for section in sections))


class _SectionWriter:
    """One client's section while it is written; the last struct stays open for what may be squashed into it.

    client, clock, end: of its structs; came_deleted: whether some hold no content any more.
    """

    __slots__ = ("_first", "_first_data", "_more", "_parts", "_structs", "came_deleted", "client", "clock", "end")

    def __init__(self, client: int, clock: int) -> None:
        self.client = client
        self.clock = self.end = clock
        self.came_deleted = False
        self._structs = 0
        self._parts: list[bytes] = []
        self._first: Struct | None = None
        self._first_data = b""
        self._more: list[bytes] = []

    def append(self, data: bytes, struct: Struct) -> None:
        """Write the struct that begins where the section ends (or before it, when it is the first)."""
        first = self._first
        if first is not None and first.kind == struct.kind and self._continues(first, data, struct):
            self._more.append(_body(data, struct))
        else:
            if struct.kind == SKIP:
                raise ValueError("the update is not closed")
            if first is not None:
                self._finish(first)
            self._first, self._first_data = struct, data
        self.end = struct.end

    def write(self) -> Piece:
        """Give the section."""
        if self._first is not None:
            self._finish(self._first)
            self._first = None
        return Piece(self.client, self.clock, self._structs, b"".join(self._parts))

    def _continues(self, first: Struct, data: bytes, struct: Struct) -> bool:
        """Whether the struct, of the same kind, can be squashed into the open one. first: its beginning."""
        kind, clock, _, start, _, _, origin, right_origin, _ = struct
        if kind == GC:
            return True
        return (
            origin == (self.client, clock - 1)
            and right_origin == first.right_origin
            # A value under a key takes the place of the one before: Yjs keeps such apart until both are deleted.
            and (kind == DELETED or (kind in (STRING, ANY) and not data[start] & HAS_PARENT_KEY))
        )

    def _finish(self, first: Struct) -> None:
        data = self._first_data
        if self._more:
            length = self.end - first.clock
            content = b"".join((_body(data, first), *self._more))
            self._parts += (
                data[first.start : first.content],
                write_var_uint(len(content) if first.kind == STRING else length),
                content,
            )
            self._more = []
        else:
            self._parts.append(data[first.start : first.stop])
        self._structs += 1
        self.came_deleted = self.came_deleted or first.kind <= DELETED


def _body(data: bytes, struct: Struct) -> bytes:
    """Give the content after its length: nothing for what is only a length."""
    content = struct.content
    after = content + 1 if data[content] < 0x80 else read_var_uint(data, content)[1]
    return data[after : struct.stop]


def _garbage(clock: int, end: int) -> tuple[bytes, Struct]:
    """Give a GC struct."""
    made = bytes((GC,)) + write_var_uint(end - clock)
    return made, Struct(GC, clock, end, 0, 1, len(made), None, None, None)


def _without_deleted(
    data: bytes, struct: Struct, client: int, deleted: Sequence[tuple[int, int]], is_below: bool
) -> list[tuple[bytes, Struct]]:
    """Give the struct in parts, each wholly deleted or not at all, with the bytes they lie in.

    deleted: the clocks of it that are. Deleted parts are ContentDeleted, or garbage where the struct hangs below something
    deleted.
    """
    edges = sorted({struct.clock, struct.end, *(edge for part in deleted for edge in part)})
    bodies = _split_body(data, struct, edges)
    if bodies is None:
        return [(data, struct)]
    starts_deleted = {start for start, _ in deleted}
    parts = []
    for (start, end), body in zip(pairwise(edges), bodies, strict=True):
        is_deleted = start in starts_deleted
        if is_deleted and is_below:
            parts.append(_garbage(start, end))
            continue
        kind, content = (DELETED, write_var_uint(end - start)) if is_deleted else (struct.kind, body)
        head = _head(data, struct, client, start, kind)
        made = head + content
        origin = struct.origin if start == struct.clock else (client, start - 1)
        part = Struct(kind, start, end, 0, len(head), len(made), origin, struct.right_origin, struct.parent)
        parts.append((made, part))
    # Heads of parts cost more than a few deleted characters.
    grows = len(parts) > 1 and sum(len(made) for made, _ in parts) >= struct.stop - struct.start
    return [(data, struct)] if grows else parts


def _head(data: bytes, struct: Struct, client: int, start: int, kind: int) -> bytes:
    """Give info byte and references of the part of a struct that begins at `start`."""
    info = data[struct.start] & ~REFERENCE | kind
    if start == struct.clock:
        return bytes((info,)) + data[struct.start + 1 : struct.content]
    head = bytes((info | HAS_ORIGIN,)) + write_var_uint(client) + write_var_uint(start - 1)
    if info & HAS_RIGHT_ORIGIN and struct.right_origin is not None:
        head += write_var_uint(struct.right_origin[0]) + write_var_uint(struct.right_origin[1])
    return head


def _split_body(data: bytes, struct: Struct, edges: Sequence[int]) -> list[bytes] | None:
    """Give the content between each two clocks, with its length in front; absent if that would part a surrogate pair."""
    if len(edges) == 2:
        return [data[struct.content : struct.stop]]
    if struct.kind == STRING:
        units = _body(data, struct).decode().encode("utf-16-le")
        places = [2 * (edge - struct.clock) for edge in edges]
        if any(0xDC <= units[place + 1] <= 0xDF for place in places[1:-1]):
            return None
        texts = (units[a:b].decode("utf-16-le").encode() for a, b in pairwise(places))
        return [write_var_uint(len(text)) + text for text in texts]
    position = read_var_uint(data, struct.content)[1]
    places = [position]
    for _ in range(struct.clock, struct.end):
        position = skip_any(data, position, STORED_LIMITS.max_any_depth)
        places.append(position)
    return [
        write_var_uint(end - start) + data[places[start - struct.clock] : places[end - struct.clock]]
        for start, end in pairwise(edges)
    ]


_HEADER_BYTES = 24
"""Enough for a section's count, client and clock, and its share of the update's own counts."""


def _struct_pieces(
    data: bytes, structs: dict[int, list[Struct]], closing: Closing, max_bytes: int
) -> Iterator[list[Piece]]:
    """Give sections for pieces of at most `max_bytes`, in an order that integrates."""
    gathered: dict[int, tuple[int, int]] = {}
    size = 0
    for client, begin, end in closing.order:
        for place in range(begin, end):
            struct = structs[client][place]
            more = struct.stop - struct.start + (0 if client in gathered else _HEADER_BYTES)
            if gathered and size + more > max_bytes:
                yield [_piece(data, owner, structs[owner][a:b]) for owner, (a, b) in gathered.items()]
                gathered = {}
                more = struct.stop - struct.start + _HEADER_BYTES
                size = 0
            gathered[client] = gathered.get(client, (place, place))[0], place + 1
            size += more
    if gathered:
        yield [_piece(data, owner, structs[owner][a:b]) for owner, (a, b) in gathered.items()]


def _piece(data: bytes, client: int, structs: Sequence[Struct]) -> Piece:
    return Piece(client, structs[0].clock, len(structs), data[structs[0].start : structs[-1].stop])


def _delete_pieces(deletes: Sequence[Range], max_bytes: int) -> Iterator[list[Range]]:
    """Give the ranges in lists that need at most `max_bytes` each."""
    gathered: list[Range] = []
    size = 0
    for client, start, end in IdRanges(deletes):
        more = len(write_var_uint(start)) + len(write_var_uint(end - start))
        if not gathered or gathered[-1][0] != client:
            more += _HEADER_BYTES
        if gathered and size + more > max_bytes:
            yield gathered
            gathered, size = [], 0
        gathered.append((client, start, end))
        size += more
    if gathered:
        yield gathered
