"""What a log lacks of a room's history, and the room of the log: for a log that is not the one that the room has followed (R9)."""

from collections.abc import Sequence
from typing import NamedTuple

from constructure_sync.protocol.closed_part import ClosedPart
from constructure_sync.protocol.id_ranges import IdRanges
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.update_reader import STORED_LIMITS
from constructure_sync.protocol.update_writer import delete_set_update


class Reconciled(NamedTuple):
    """theirs: parts that the room lacks, in the log's order. ours: (index into the history, part) that the log lacks.

    Collected segments imply deletes that they do not name, and tell whoever has, or meanwhile gets, their structs from elsewhere
    nothing of them. So every delete that is new to the room is named once more in `deletes`, to be taken after `theirs` whatever
    is known by then; and every one that is new to the log in the last of `ours`.
    """

    theirs: list[ClosedPart]
    deletes: ClosedPart
    ours: list[tuple[int, ClosedPart]]


def reconcile(known: Known, history: Sequence[bytes], stored: Sequence[bytes]) -> Reconciled:
    """Compare a room's history, of which `known` knows everything, with the updates of a log; both are closed.

    Raises ProtocolViolation when one of them is malformed.
    """
    logged = Known()
    theirs: list[ClosedPart] = []
    known_before = known.deletes.copy()
    history_bytes, stored_bytes = set(history), set(stored)  # most are the same, and reading takes time
    for update in stored:
        if update not in history_bytes:
            part = known.close(update, STORED_LIMITS)
            if not part.is_empty:
                theirs.append(part)
                known.add(part)
        logged.add(logged.close(update, STORED_LIMITS))
    deletes = _named(known, known_before, logged.deletes)
    ours: list[tuple[int, ClosedPart]] = []
    logged_before = logged.deletes.copy()
    for index, update in enumerate(history):
        if update not in stored_bytes:
            part = logged.close(update, STORED_LIMITS)
            if not part.is_empty:
                ours.append((index, part))
                logged.add(part)
    rest = _named(logged, logged_before, known.deletes)
    if not rest.is_empty:
        ours.append((len(history) - 1, rest))
    return Reconciled(theirs, deletes, ours)


def _named(known: Known, before: IdRanges, deletes: IdRanges) -> ClosedPart:
    """Name those of the deletes that are not among `before`; they are known then, too."""
    known.deletes = before
    part = known.close(delete_set_update(deletes), STORED_LIMITS)
    known.add(part)
    return part
