"""The part of an update that integrates at once, and the summary of many such parts."""

import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.id_ranges import IdRanges, Range
from constructure_sync.protocol.lib0 import Reader, var_bytes, write_var_uint
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


_IN_NUMBERS, _VERSION = 1, 2
_RUN_BYTES = 8


class Runs(NamedTuple):
    """How deep the structs of one client hang, without a gap up to the clock `end`.

    packed: the first clock and the nesting of each run, see `closing.pack`; neighbours differ in their nesting.
    """

    end: int
    packed: "array[int]"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a stretch of closed history adds, without its content: enough to open a room from stored segments.

    ranges: (client, first clock, end clock) of structs, one per client and contiguous; deletes: everything it deletes;
    nesting: the runs of its structs, by client.
    """

    ranges: tuple[Range, ...]
    deletes: IdRanges
    nesting: dict[int, Runs]

    @classmethod
    def of(cls, part: ClosedPart) -> "Summary":
        """Give the summary of one part."""
        return cls.merge((part,))

    @classmethod
    def merge(cls, parts: "Iterable[ClosedPart | Summary]") -> "Summary":
        """Give the summary of parts and summaries that follow one another in one history."""
        ranges: dict[int, tuple[int, int]] = {}
        deletes = IdRanges()
        nesting: dict[int, Runs] = {}
        for part in parts:
            for client, start, end in part.ranges:
                first, last = ranges.get(client, (start, end))
                ranges[client] = min(first, start), max(last, end)
            for client, start, end in part.deletes:
                deletes.add(client, start, end)
            for run in part.depths:
                _append_run(nesting, run)
        return cls(tuple((client, start, end) for client, (start, end) in ranges.items()), deletes, nesting)

    @property
    def depths(self) -> Iterator[Run]:
        """The runs one by one, as in `ClosedPart`."""
        for client, (end, packed) in self.nesting.items():
            ends = [run >> 16 for run in packed[1:]] + [end]
            for run, stop in zip(packed, ends, strict=True):
                yield client, run >> 16, stop, run & 0xFFFF

    def encode(self) -> bytes:
        """Give the bytes of version 2: ranges, deletes as a delete set, and for each client its runs.

        Numbers are varUints; runs are as they lie in memory here, eight bytes each, the lowest first: a large document has
        tens of thousands of them, and is opened while somebody waits.
        """
        numbers = [len(self.ranges)]
        for client, start, end in self.ranges:
            numbers += (client, start, end - start)
        parts = [
            bytes((_VERSION,)),
            *map(write_var_uint, numbers),
            self.deletes.encode(),
            write_var_uint(len(self.nesting)),
        ]
        for client, (end, packed) in self.nesting.items():
            parts += (write_var_uint(client), write_var_uint(end), var_bytes(_swapped_on_big_endian(packed).tobytes()))
        return b"".join(parts)

    @classmethod
    def decode(cls, encoded: bytes) -> "Summary":
        """Read what `encode` wrote, or version 1, which held the runs in numbers; ProtocolViolation for anything else."""
        reader = Reader(encoded)
        version = reader.read_byte()
        if version not in (_IN_NUMBERS, _VERSION):
            raise ProtocolViolation("unknown version of a summary")
        take = reader.read_var_uint
        ranges = []
        for _ in range(take()):
            client, start = take(), take()
            ranges.append((client, start, start + take()))
        deletes = IdRanges.decode(reader, len(encoded))
        nesting: dict[int, Runs] = {}
        for _ in range(take()):
            client, start = take(), take()
            if version == _IN_NUMBERS:
                _append_run(nesting, (client, start, start + take(), take()))
            else:
                nesting[client] = Runs(start, _read_packed(reader.read_var_bytes()))
        reader.expect_end()
        return cls(tuple(ranges), deletes, nesting)


def _read_packed(encoded: bytes) -> "array[int]":
    if not encoded or len(encoded) % _RUN_BYTES:
        raise ProtocolViolation("a summary holds runs that are not whole")
    return _swapped_on_big_endian(array("Q", encoded))


def _swapped_on_big_endian(packed: "array[int]") -> "array[int]":
    """Give the runs as they are stored, or the other way round."""
    if sys.byteorder == "big":
        packed = packed[:]
        packed.byteswap()
    return packed


def _append_run(nesting: dict[int, Runs], run: Run) -> None:
    """Add a run at the end of its client's; what those already cover stays as it is."""
    client, start, end, depth = run
    runs = nesting.get(client)
    if runs is None:
        nesting[client] = Runs(end, array("Q", (start << 16 | depth,)))
    elif end > runs.end:
        if runs.packed[-1] & 0xFFFF != depth:
            runs.packed.append(max(start, runs.end) << 16 | depth)
        nesting[client] = Runs(end, runs.packed)
