"""The fast way to close what live editing sends: one item, or none, with a few delete ranges, of which everything is new.

It gives exactly what the general way gives, or None for whatever it does not know: other shapes, gaps, repeats, bytes that
are malformed. The shapes: a typed run, a map value or a shared type with an origin, a right origin, both, or its parent,
a root or an item; its delete set, mostly of the value that it replaces; a delete set alone.

`native/short_updates.c` is the same, compiled; see `readers` for which is used. A change here is a change there.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.closed_part import ClosedPart
from constructure_sync.protocol.closing import GONE, child_depth, nesting_at, nesting_of
from constructure_sync.protocol.id_ranges import MAX_CLOCK, IdRanges, Range
from constructure_sync.protocol.lib0 import read_var_uint
from constructure_sync.protocol.update_reader import (
    ANY,
    CONTENT_READERS,
    HAS_PARENT_KEY,
    REFERENCE,
    STRING,
    TYPE,
    UpdateLimits,
    skip_string,
)

MAX_BYTES = 512
"""Longer updates go the general way."""

_NUMBER = rb"([\x80-\xff]{0,9}+[\x00-\x7f])"
_ID = _NUMBER + _NUMBER
_ONE_ITEM = re.compile(
    rb"\x01\x01"
    + _ID
    + rb"(?:([\xc0-\xff])"
    + _ID
    + _ID
    + rb"|([\x40-\xbf])"
    + _ID
    + rb"|([\x00-\x3f])(?:\x00"
    + _ID
    + rb"|\x01))"
)
"""Head of an update of one item: its id, then the info byte and both origins, or one, or the parent: an id, or (before its
name) a root."""

_KINDS = frozenset((STRING, TYPE, ANY))


@lru_cache(maxsize=4096)
def _client(encoded: bytes) -> int:
    return read_var_uint(encoded, 0)[0]


def _clock(encoded: bytes) -> int:
    size = len(encoded)
    if size == 1:
        return encoded[0]
    if size == 2:
        return encoded[0] & 0x7F | encoded[1] << 7
    return read_var_uint(encoded, 0)[0]


def close_short(
    data: bytes,
    clocks: Mapping[int, int],
    nesting: Mapping[int, Sequence[int]],
    deleted: IdRanges,
    limits: UpdateLimits,
) -> ClosedPart | None:
    """Give the closed part of a short update of a common shape when that is all of it; None: take the general way."""
    try:
        if data[0] == 0:
            deletes = _read_deletes(data, 1, clocks, deleted, limits, -1, 0)
            return ClosedPart(data, (), deletes, (), ()) if deletes else None
        return _close_one_item(data, clocks, nesting, deleted, limits)
    except (ProtocolViolation, IndexError, UnicodeDecodeError):
        return None


def _close_one_item(
    data: bytes,
    clocks: Mapping[int, int],
    nesting: Mapping[int, Sequence[int]],
    deleted: IdRanges,
    limits: UpdateLimits,
) -> ClosedPart | None:
    head = _ONE_ITEM.match(data)
    if head is None:
        return None
    own, at, both, left, left_at, right, right_at, one, beside, beside_at, child, above, above_at = head.groups()
    client, clock, position = _client(own), _clock(at), head.end()
    if clock != clocks.get(client, 0):
        return None

    # An absent reference is a clock beyond all that is known, of which there is no nesting either.
    def nesting_of_id(encoded: bytes, encoded_clock: bytes) -> int:
        other, reference = _client(encoded), _clock(encoded_clock)
        if reference >= clocks.get(other, 0):
            raise IndexError
        return nesting_at(nesting[other], reference)

    if one is not None:
        info = one[0]
        depth = nesting_of_id(beside, beside_at) >> 1
    elif both is not None:
        info = both[0]
        depth = nesting_of_id(left, left_at) >> 1
        beyond = nesting_of_id(right, right_at) >> 1
        if depth != beyond:
            if GONE not in (depth, beyond):
                return None
            depth = GONE
    else:
        info = child[0]
        if above is not None:
            depth = child_depth(nesting_of_id(above, above_at))
        else:
            depth, position = 1, skip_string(data, position)
        if info & HAS_PARENT_KEY:
            position = skip_string(data, position)
    kind = info & REFERENCE
    if kind not in _KINDS or depth > limits.max_depth:
        return None
    length, position = CONTENT_READERS[kind](data, position, limits)
    end = clock + length
    deletes = _read_deletes(data, position, clocks, deleted, limits, client, end)
    if deletes is None or end > MAX_CLOCK:
        return None
    return ClosedPart(data, ((client, clock, end),), deletes, ((client, clock, end, nesting_of(depth, kind)),), ())


def _read_deletes(
    data: bytes,
    position: int,
    clocks: Mapping[int, int],
    deleted: IdRanges,
    limits: UpdateLimits,
    client: int,
    end: int,
) -> tuple[Range, ...] | None:
    """Give the delete ranges if there is at most one client's, everything they name is there and nothing is deleted yet.

    client, end: the item that comes with them and the clock after it.
    """
    if data[position] == 0:
        return () if position + 1 == len(data) else None
    if data[position] != 1:
        return None
    owner, position = read_var_uint(data, position + 1)
    count = data[position]
    position += 1
    known = end if owner == client else clocks.get(owner, 0)
    if not 0 < count < 0x80 or count > limits.max_delete_ranges:
        return None
    ranges: list[Range] = []
    for _ in range(count):
        start, position = read_var_uint(data, position)
        length, position = read_var_uint(data, position)
        stop = start + length
        if length == 0 or stop > known or not deleted.disjoint(owner, start, stop):
            return None
        ranges.append((owner, start, stop))
    return tuple(ranges) if position == len(data) else None
