"""What a room knows of a document, and the largest part of an update that integrates on top of it.

A Yjs client integrates a struct when all structs of its client before it and the ids it refers to are there; it keeps
the rest pending. A history in which every update was cut to its *closed part* loads anywhere with nothing pending.
"""

from array import array
from typing import Final

from constructure_sync.protocol.closed_part import ClosedPart, Run, Summary
from constructure_sync.protocol.closing import Closing, pack
from constructure_sync.protocol.id_ranges import IdRanges, Range
from constructure_sync.protocol.readers import close_short, close_whole, read_update
from constructure_sync.protocol.short_updates import MAX_BYTES
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, UpdateLimits

__all__ = ["ClosedPart", "Known", "Summary", "UpdateLimits"]

MAX_WHOLE_BYTES: Final = 65_536
"""Longer updates go the general way at once: there the first reading would cost more than it may save."""


class Known:
    """The clocks, deleted ranges and nesting of a document's structs; copies and pickles compactly.

    clocks: per client the first clock that is not known (all before it are). deletes: what is deleted. Nesting is one
    array of runs per client, see `closing.pack`.
    """

    __slots__ = ("clocks", "deletes", "nesting")

    def __init__(self) -> None:
        self.clocks: dict[int, int] = {}
        self.deletes = IdRanges()
        self.nesting: dict[int, array[int]] = {}

    def close(self, update: bytes, limits: UpdateLimits = DEFAULT_LIMITS) -> ClosedPart:
        """Give the largest part of the update that integrates now; nothing changes here until `add`.

        Raises ProtocolViolation when the update is malformed or beyond the limits, when a type would be nested too
        deep, or when something hangs below an item that is no shared type.
        """
        if len(update) <= MAX_BYTES:
            part = close_short(update, self.clocks, self.nesting, self.deletes, limits)
            if part is not None:
                return part
        if close_whole is not None and len(update) <= MAX_WHOLE_BYTES:
            part = close_whole(update, self.clocks, self.nesting, self.deletes, limits)
            if part is not None:
                return part
        return self.close_fully(update, limits)

    def close_fully(self, update: bytes, limits: UpdateLimits = DEFAULT_LIMITS) -> ClosedPart:
        """Give the same as `close`, the general way."""
        return Closing(self.clocks, self.nesting, read_update(update, limits), limits).part(self.deletes)

    def add(self, part: ClosedPart) -> None:
        """Know what the part holds, too. It may have been closed against an earlier state of this object."""
        self._add(part.ranges, part.depths)
        for client, start, end in part.deletes:
            self.deletes.add(client, start, end)

    def add_summary(self, summary: Summary) -> None:
        """Know what a stored stretch of history holds, which follows on what is known."""
        others = summary.nesting.keys() - {client for client in summary.nesting if self._follow(client, summary)}
        self._add(summary.ranges, tuple([run for run in summary.depths if run[0] in others]) if others else ())
        self.deletes.merge(summary.deletes)

    def _follow(self, client: int, summary: Summary) -> bool:
        """Take a client's runs as they are if they begin where those that are known end; tell whether they do."""
        end, packed = summary.nesting[client]
        if packed[0] >> 16 != self.clocks.get(client, 0):
            return False
        runs = self.nesting.setdefault(client, array("Q"))
        runs.extend(packed[1:] if runs and (runs[-1] ^ packed[0]) & 0xFFFF == 0 else packed)
        self.clocks[client] = end
        return True

    def _add(self, ranges: tuple[Range, ...], depths: tuple[Run, ...]) -> None:
        clocks = self.clocks
        for client, start, end, nesting in depths:
            known = clocks.get(client, 0)
            if end > known:
                runs = self.nesting.get(client)
                if runs is None:
                    runs = self.nesting[client] = array("Q")
                if not runs or runs[-1] & 0xFFFF != nesting:
                    runs.append(pack(max(start, known), nesting))
                clocks[client] = end
        for client, _, end in ranges:
            if end > clocks.get(client, 0):
                raise ValueError("a part's ranges and depths differ")

    def copy(self) -> "Known":
        """Give an independent copy."""
        twin = Known()
        twin.clocks = dict(self.clocks)
        twin.deletes = self.deletes.copy()
        twin.nesting = {client: runs[:] for client, runs in self.nesting.items()}
        return twin

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Known)
            and self.clocks == other.clocks
            and self.deletes == other.deletes
            and self.nesting == other.nesting
        )

    __hash__ = None  # type: ignore[assignment]
