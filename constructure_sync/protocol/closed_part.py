"""The part of an update that integrates at once, and the summary of many such parts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.id_ranges import IdRanges, Range
from constructure_sync.protocol.lib0 import Reader, write_var_uint
from constructure_sync.protocol.update_cut import EMPTY_UPDATE

Run = tuple[int, int, int, int]
"""(client, first clock, clock after the last, nesting): structs that hang equally deep; see `known` for the number."""


class ClosedPart(NamedTuple):
    """What of an update integrates now.

    update: a V1 update of exactly this part: the input object itself when nothing was cut, EMPTY_UPDATE when it adds
    nothing. ranges: (client, first clock, end clock) of its structs, one contiguous range per client; the first struct
    may begin before what is new. deletes: (client, start, end) that it newly deletes, whether its delete set or a
    deleted struct says so. depths: how deep its new structs hang, for `Known`. missing: (client, clock) of the first
    absent things that made us cut; empty when nothing was cut for a gap.
    """

    update: bytes
    ranges: tuple[Range, ...]
    deletes: tuple[Range, ...]
    depths: tuple[Run, ...]
    missing: tuple[tuple[int, int], ...]

    @property
    def is_empty(self) -> bool:
        """Whether it adds nothing."""
        return not self.ranges and not self.deletes

    @property
    def adds_structs(self) -> bool:
        """Whether it holds structs that were not known."""
        return bool(self.ranges)

    @property
    def adds_deletes(self) -> bool:
        """Whether it deletes what was not deleted."""
        return bool(self.deletes)


def nothing(missing: tuple[tuple[int, int], ...] = ()) -> ClosedPart:
    """Give the part that adds nothing."""
    return ClosedPart(EMPTY_UPDATE, (), (), (), missing)


_VERSION = 1


@dataclass(frozen=True, slots=True)
class Summary:
    """What a stretch of closed history adds, without its content: enough to open a room from stored segments.

    ranges: (client, first clock, end clock) of structs, one per client and contiguous; deletes: everything it deletes;
    depths: as in `ClosedPart`.
    """

    ranges: tuple[Range, ...]
    deletes: IdRanges
    depths: tuple[Run, ...]

    @classmethod
    def of(cls, part: ClosedPart) -> "Summary":
        """Give the summary of one part."""
        return cls.merge((part,))

    @classmethod
    def merge(cls, parts: "Iterable[ClosedPart | Summary]") -> "Summary":
        """Give the summary of parts and summaries that follow one another in one history."""
        ranges: dict[int, tuple[int, int]] = {}
        deletes = IdRanges()
        depths: dict[int, list[Run]] = {}
        for part in parts:
            for client, start, end in part.ranges:
                first, last = ranges.get(client, (start, end))
                ranges[client] = min(first, start), max(last, end)
            for client, start, end in part.deletes:
                deletes.add(client, start, end)
            for run in part.depths:
                _append_run(depths.setdefault(run[0], []), run)
        return cls(
            tuple((client, start, end) for client, (start, end) in ranges.items()),
            deletes,
            tuple(run for runs in depths.values() for run in runs),
        )

    def encode(self) -> bytes:
        """Give the bytes of version 1: ranges, deletes as a delete set, runs; numbers are varUints."""
        numbers = [len(self.ranges)]
        for client, start, end in self.ranges:
            numbers += (client, start, end - start)
        runs = [len(self.depths)]
        for client, start, end, nesting in self.depths:
            runs += (client, start, end - start, nesting)
        return b"".join(
            (bytes((_VERSION,)), *map(write_var_uint, numbers), self.deletes.encode(), *map(write_var_uint, runs))
        )

    @classmethod
    def decode(cls, encoded: bytes) -> "Summary":
        """Read what `encode` wrote; ProtocolViolation for anything else."""
        reader = Reader(encoded)
        if reader.read_byte() != _VERSION:
            raise ProtocolViolation("unknown version of a summary")
        take = reader.read_var_uint
        ranges = []
        for _ in range(take()):
            client, start = take(), take()
            ranges.append((client, start, start + take()))
        deletes = IdRanges.decode(reader, len(encoded))
        depths = []
        for _ in range(take()):
            client, start = take(), take()
            depths.append((client, start, start + take(), take()))
        reader.expect_end()
        return cls(tuple(ranges), deletes, tuple(depths))


def _append_run(runs: list[Run], run: Run) -> None:
    """Add a run of the same client at the end; what the runs already cover stays as it is."""
    client, start, end, nesting = run
    if runs:
        _, first, reached, last = runs[-1]
        start = max(start, reached)
        if start >= end:
            return
        if start == reached and nesting == last:
            runs[-1] = (client, first, end, nesting)
            return
    runs.append((client, start, end, nesting))
