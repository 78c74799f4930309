"""Sets of Yjs ids, held as ranges of clocks per client: what was deleted, what is covered."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.lib0 import Reader, write_var_uint

MAX_CLOCK = 2**32 - 1
"""The highest clock: yrs counts clocks in 32 bits, so above it clients would no longer agree."""

Range = tuple[int, int, int]
"""(client, first clock, clock after the last)"""


class IdRanges:
    """A set of ids: per client, sorted ranges of clocks that neither touch nor overlap.

    Ranges are half open. A client's ranges are one flat array of bounds (start, end, start, end, …), so the place of a
    clock in it is odd exactly when the clock is inside a range. Pickles compactly.
    """

    __slots__ = ("_bounds",)

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._bounds: dict[int, array[int]] = {}
        for client, start, end in ranges:
            self.add(client, start, end)

    def add(self, client: int, start: int, end: int) -> None:
        """Take the clocks from `start` up to but without `end`; an empty range changes nothing."""
        if start >= end:
            return
        bounds = self._bounds.get(client)
        if bounds is None:
            self._bounds[client] = array("Q", (start, end))
            return
        last = bounds[-1]
        if start > last:
            bounds.append(start)
            bounds.append(end)
        elif start >= bounds[-2]:
            if end > last:
                bounds[-1] = end
        else:
            first = bisect_left(bounds, start)
            after = bisect_right(bounds, end)
            # An odd place is inside (or touches) a range, whose own bound then stays.
            kept = ([] if first & 1 else [start]) + ([] if after & 1 else [end])
            bounds[first:after] = array("Q", kept)

    def merge(self, other: "IdRanges") -> None:
        """Take everything that `other` holds."""
        for client, bounds in other._bounds.items():
            if client in self._bounds:
                for place in range(0, len(bounds), 2):
                    self.add(client, bounds[place], bounds[place + 1])
            else:
                self._bounds[client] = bounds[:]

    def covers(self, client: int, start: int, end: int) -> bool:
        """Whether every clock from `start` up to but without `end` is held."""
        bounds = self._bounds.get(client)
        if bounds is None:
            return start >= end
        place = bisect_right(bounds, start)
        return start >= end or bool(place & 1 and end <= bounds[place])

    def not_covered(self, ranges: Iterable[Range]) -> list[Range]:
        """Give those of the ranges, none of which is empty, that are not wholly held."""
        found: list[Range] = []
        of: int | None = None
        bounds: Sequence[int] = ()
        for each in ranges:
            client, start, end = each
            if client != of:
                of, bounds = client, self._bounds.get(client, ())
            place = bisect_right(bounds, start)
            if not place & 1 or end > bounds[place]:
                found.append(each)
        return found

    def disjoint(self, client: int, start: int, end: int) -> bool:
        """Whether no clock from `start` up to but without `end` is held."""
        bounds = self._bounds.get(client)
        if bounds is None:
            return True
        place = bisect_right(bounds, start)
        return not place & 1 and (place == len(bounds) or end <= bounds[place])

    def missing(self, client: int, start: int, end: int) -> list[tuple[int, int]]:
        """Give the parts of the range that are not held, in order."""
        bounds = self._bounds.get(client)
        if bounds is None:
            return [(start, end)] if start < end else []
        gaps = []
        place = bisect_right(bounds, start)
        if place & 1:
            start = bounds[place]
            place += 1
        while start < end:
            stop = bounds[place] if place < len(bounds) else end
            gaps.append((start, min(stop, end)))
            if stop >= end:
                break
            start = bounds[place + 1]
            place += 2
        return gaps

    def within(self, client: int, start: int, end: int) -> list[tuple[int, int]]:
        """Give the parts of the range that are held, in order."""
        bounds = self._bounds.get(client)
        if bounds is None:
            return []
        parts = []
        place = bisect_right(bounds, start) & ~1
        while place < len(bounds) and bounds[place] < end:
            if start < bounds[place + 1]:
                parts.append((max(start, bounds[place]), min(end, bounds[place + 1])))
            place += 2
        return parts

    def copy(self) -> "IdRanges":
        """Give an independent copy."""
        twin = IdRanges()
        twin._bounds = {client: bounds[:] for client, bounds in self._bounds.items()}
        return twin

    def encode(self) -> bytes:
        """Give the set as a Yjs V1 delete set, clients from the highest id down as Yjs writes them."""
        parts = [write_var_uint(len(self._bounds))]
        for client in sorted(self._bounds, reverse=True):
            bounds = self._bounds[client]
            parts.append(write_var_uint(client))
            parts.append(write_var_uint(len(bounds) // 2))
            for place in range(0, len(bounds), 2):
                start = bounds[place]
                parts.append(write_var_uint(start))
                parts.append(write_var_uint(bounds[place + 1] - start))
        return b"".join(parts)

    @classmethod
    def decode(cls, reader: Reader, max_ranges: int = 1_000_000) -> "IdRanges":
        """Read a V1 delete set; the reader stands after it then.

        max_ranges: how many ranges are taken (more: ProtocolViolation 4413).
        """
        ranges = cls()
        for client, start, end in read_delete_ranges(reader, max_ranges)[0]:
            ranges.add(client, start, end)
        return ranges

    def __iter__(self) -> Iterator[Range]:
        for client, bounds in self._bounds.items():
            for place in range(0, len(bounds), 2):
                yield client, bounds[place], bounds[place + 1]

    def __len__(self) -> int:
        """Give the number of ranges."""
        return sum(map(len, self._bounds.values())) // 2

    def __bool__(self) -> bool:
        return bool(self._bounds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdRanges) and self._bounds == other._bounds

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IdRanges({list(self)!r})"


def read_delete_ranges(reader: Reader, max_ranges: int) -> tuple[list[Range], bool]:
    """Read a V1 delete set as it came: its ranges in their order, and whether every client listed has at least one.

    Unsorted and overlapping ranges are taken, as Yjs does. Raises ProtocolViolation for a client listed twice, an empty
    range, a clock beyond 32 bits, a count that the bytes left cannot hold, and (4413) more than `max_ranges` ranges.
    """
    ranges: list[Range] = []
    seen: set[int] = set()
    none_empty = True
    count = reader.read_var_uint()
    if count * 2 > reader.bytes_left:
        raise ProtocolViolation("delete set declares more clients than it holds")
    for _ in range(count):
        client = reader.read_var_uint()
        if client in seen:
            raise ProtocolViolation("delete set lists a client twice")
        seen.add(client)
        deletes = reader.read_var_uint()
        none_empty = none_empty and deletes > 0
        if deletes * 2 > reader.bytes_left:
            raise ProtocolViolation("delete set declares more ranges than it holds")
        if len(ranges) + deletes > max_ranges:
            raise ProtocolViolation("too many delete ranges", 4413)
        for _ in range(deletes):
            start = reader.read_var_uint()
            end = start + reader.read_var_uint()
            if end == start:
                raise ProtocolViolation("delete set holds an empty range")
            if end > MAX_CLOCK:
                raise ProtocolViolation("clock is beyond 32 bits")
            ranges.append((client, start, end))
    return ranges, none_empty
