"""What a log lacks of a room's history, and the room of the log: for a log that is not the one that the room has followed (R9)."""

from collections.abc import Sequence
from typing import NamedTuple

from constructure_sync.protocol.closed_part import ClosedPart
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.update_reader import STORED_LIMITS
from constructure_sync.protocol.update_writer import delete_set_update


class Reconciled(NamedTuple):
    """theirs: parts that the room lacks, in the log's order. ours: (index into the history, part) that the log lacks."""

    theirs: list[ClosedPart]
    ours: list[tuple[int, ClosedPart]]


def reconcile(known: Known, history: Sequence[bytes], stored: Sequence[bytes]) -> Reconciled:
    """Compare a room's history, of which `known` knows everything, with the updates of a log; both are closed.

    Raises ProtocolViolation when one of them is malformed.
    """
    theirs: list[ClosedPart] = []
    logged = Known()
    ours_as_bytes, theirs_as_bytes = set(history), set(stored)
    for update in stored:
        if update not in ours_as_bytes:  # mostly the same updates, which cost time to read
            part = known.close(update, STORED_LIMITS)
            if not part.is_empty:
                theirs.append(part)
                known.add(part)
        logged.add(logged.close(update, STORED_LIMITS))
    # A collected segment implies deletes that it does not name, and tells whoever has its structs already nothing of them.
    implied = known.close(delete_set_update(logged.deletes), STORED_LIMITS)
    if not implied.is_empty:
        theirs.append(implied)
        known.add(implied)
    ours: list[tuple[int, ClosedPart]] = []
    for index, update in enumerate(history):
        if update in theirs_as_bytes:
            continue
        part = logged.close(update, STORED_LIMITS)
        if not part.is_empty:
            ours.append((index, part))
            logged.add(part)
    rest = logged.close(delete_set_update(known.deletes), STORED_LIMITS)
    if not rest.is_empty:
        ours.append((len(history) - 1, rest))
    return Reconciled(theirs, ours)
