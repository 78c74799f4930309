"""Writing V1 updates out of whole struct bytes: only the headers are new."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from constructure_sync.protocol.id_ranges import IdRanges, Range
from constructure_sync.protocol.lib0 import write_var_uint

EMPTY_UPDATE = b"\x00\x00"
"""The update that holds nothing."""


class Piece(NamedTuple):
    """A run of whole structs of one client: how many, from which clock on, and their bytes."""

    client: int
    clock: int
    structs: int
    content: bytes


def write_update(pieces: Sequence[Piece], deletes: Iterable[Range]) -> bytes:
    """Give the update of these sections (one per client, in the order given) and delete ranges (sorted and merged)."""
    parts = [write_var_uint(len(pieces))]
    for client, clock, structs, content in pieces:
        parts += (write_var_uint(structs), write_var_uint(client), write_var_uint(clock), content)
    parts.append(IdRanges(deletes).encode())
    return b"".join(parts)


def delete_set_update(ranges: IdRanges) -> bytes:
    """Give the update that holds no structs and deletes these ranges."""
    return b"\x00" + ranges.encode()
