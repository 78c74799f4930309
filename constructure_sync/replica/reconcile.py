"""What a log lacks of a room's history, and the room of the log: for a log that is not the one that the room has followed (R9)."""

from collections.abc import Sequence
from typing import NamedTuple

from constructure_sync.protocol.closed_part import ClosedPart
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.update_reader import STORED_LIMITS


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
    for update in stored:
        part = known.close(update, STORED_LIMITS)
        if not part.is_empty:
            theirs.append(part)
            known.add(part)
        logged.add(logged.close(update, STORED_LIMITS))
    ours: list[tuple[int, ClosedPart]] = []
    for index, update in enumerate(history):
        part = logged.close(update, STORED_LIMITS)
        if not part.is_empty:
            ours.append((index, part))
            logged.add(part)
    return Reconciled(theirs, ours)
