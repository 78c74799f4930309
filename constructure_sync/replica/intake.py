"""Taking in updates that another system stored: what of them integrates, cut to the sizes that a log is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.update_reader import STORED_LIMITS, UpdateLimits
from constructure_sync.protocol.update_writer import join_updates, split_update
from constructure_sync.replica.jobs import CompactionMismatch

WHOLE_DOCUMENTS = UpdateLimits(max_structs=2**32, max_clients=2**32, max_delete_ranges=2**32, max_subdocs=2**32)
"""One update may hold a whole document here; the pieces it is cut into keep the limits of a live one."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x78": "zlib"}
_V2_COLUMNS = 9


class LeftOut(NamedTuple):
    """An update that was taken in part or not at all. place: its index among those given. reason: for people."""

    place: int
    reason: str


@dataclass(frozen=True, slots=True)
class Intake:
    """What was taken: updates that follow one another and what is stored, each closed; and what was not."""

    pieces: tuple[bytes, ...]
    left_out: tuple[LeftOut, ...]


def take_in(stored: Sequence[bytes], updates: Sequence[bytes], piece_bytes: int) -> Intake:
    """Return the closed part of these updates, in whatever order they come, on top of a stored history.

    The pieces have about `piece_bytes`; a single struct that is larger stays whole. They are read again and compared with what
    went in. Raises CompactionMismatch, and ProtocolViolation where a piece is beyond the limits of a live update.
    """
    before = Known()
    for update in stored:
        before.add(before.close(update, STORED_LIMITS))
    after = before.copy()
    taken, left_out = close_all(after, updates)
    pieces: list[bytes] = []
    for joined in join_updates(taken):
        for piece in split_update(joined, before, piece_bytes):
            part = before.close(piece)
            if part.missing:
                raise CompactionMismatch("a piece is not closed")
            before.add(part)
            pieces.append(piece)
    if before.clocks != after.clocks or before.deletes != after.deletes:
        raise CompactionMismatch("clocks or deletes differ")
    return Intake(tuple(pieces), tuple(left_out))


def close_all(known: Known, updates: Sequence[bytes]) -> tuple[list[bytes], list[LeftOut]]:
    """Add what integrates of these updates to `known`; return that, in an order that integrates, and what is left."""
    taken: list[bytes] = []
    refused: dict[int, str] = {}
    waiting = list(range(len(updates)))
    while waiting:
        missing: dict[int, str] = {}
        progress = False
        for place in waiting:
            try:
                part = known.close(updates[place], WHOLE_DOCUMENTS)
            except ProtocolViolation as error:
                refused[place] = _reason(updates[place], error)
                continue
            if not part.is_empty:
                known.add(part)
                taken.append(part.update)
                progress = True
            if part.missing:
                missing[place] = missing_words(part.missing)
        # Turned round each time: updates that lie in reverse order need two rounds, not as many as there are.
        waiting = list(missing)[::-1] if progress else []
        if not waiting:
            refused |= missing
    return taken, [LeftOut(place, reason) for place, reason in sorted(refused.items())]


def missing_words(missing: tuple[tuple[int, int], ...]) -> str:
    """Say what an update waits for. missing: (client, clock), at least one."""
    shown = ", ".join(f"client {client} from clock {clock}" for client, clock in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"a part waits for what is not there: {shown}{more}"


def _reason(update: bytes, error: ProtocolViolation) -> str:
    if _looks_like_v2(update):
        return "it is in the V2 format: convert it with Y.convertUpdateFormatV2ToV1 of Yjs"
    for magic, name in _COMPRESSED.items():
        if update.startswith(magic):
            return f"{error.reason}; it looks compressed ({name}): store it uncompressed"
    return error.reason


def _looks_like_v2(update: bytes) -> bool:
    """Whether the bytes are laid out as V2: feature flags 0, then columns with their lengths, then the rest."""
    reader = Reader(update)
    try:
        if reader.read_byte() != 0:
            return False
        for _ in range(_V2_COLUMNS):
            reader.read_var_bytes()
    except ProtocolViolation:
        return False
    return reader.bytes_left > 0
