"""The general way to find the closed part of an update: integrate its structs' ids as Yjs would, content aside."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.closed_part import ClosedPart, nothing
from constructure_sync.protocol.id_ranges import IdRanges, Range
from constructure_sync.protocol.update_cut import Piece, write_update
from constructure_sync.protocol.update_reader import DELETED, GC, SKIP, TYPE, Id, ParsedUpdate, Struct, UpdateLimits

GONE = 0
"""The depth of what no longer hangs anywhere: garbage, and what refers to garbage (Yjs makes it garbage, too)."""

MAY_BE_PARENT = 1
"""The bit of shared types, and of garbage and deleted content, which may have been a type."""

_MAY_BE_PARENTS = frozenset((GC, DELETED, TYPE))


def nesting_of(depth: int, kind: int) -> int:
    """Give the nesting of a struct: twice its depth (1: directly in a root) plus whether it may be a parent."""
    return depth << 1 | (kind in _MAY_BE_PARENTS)


def pack(clock: int, nesting: int) -> int:
    """Give the entry of a run that begins at `clock`: sorted by clock, as a run lasts until the next one."""
    return clock << 16 | nesting


def nesting_at(runs: Sequence[int], clock: int) -> int:
    """Give the nesting at a known clock from runs that were made by `pack`."""
    up_to, last = clock << 16 | 0xFFFF, runs[-1]
    if up_to >= last:
        return last & 0xFFFF
    return runs[bisect_right(runs, up_to) - 1] & 0xFFFF


def child_depth(parent: int) -> int:
    """Give the depth of what hangs below an item of this nesting; GONE stays GONE."""
    if not parent & MAY_BE_PARENT:
        raise ProtocolViolation("parent is not a shared type")
    depth = parent >> 1
    return GONE if depth == GONE else depth + 1


class Closing:
    """One update being closed: a pointer into each section, moved on as far as clocks and references allow.

    The result is the least fixpoint: a section stops at its first gap or at a reference to what is not there; when
    that is further on in another section, the section is woken as soon as that one has got there. O(n log n).
    """

    def __init__(
        self,
        clocks: Mapping[int, int],
        nesting: Mapping[int, Sequence[int]],
        parsed: ParsedUpdate,
        limits: UpdateLimits,
    ) -> None:
        self._clocks = clocks
        self._nesting = nesting
        self._parsed = parsed
        self._limits = limits
        self._structs = dict(parsed.sections)
        self._reached = {client: clocks.get(client, 0) for client in self._structs}
        self._first = {client: self._known_structs(client) for client in self._structs}
        self._next = dict(self._first)
        self._runs: dict[int, list[int]] = {client: [] for client in self._structs}
        self._waiting: dict[int, list[tuple[int, int]]] = {}
        self.order: list[tuple[int, int, int]] = []
        """(client, from, to): the structs taken, as stretches of their sections in an order that integrates."""
        self._run()

    def _known_structs(self, client: int) -> int:
        """How many structs at the section's start are wholly known (or skipped over what is known)."""
        known = self._reached[client]
        structs = self._structs[client]
        if structs[0].end > known:
            return 0
        return bisect_right(structs, known, key=lambda struct: struct.end)

    def _run(self) -> None:
        ready = list(self._structs)
        while ready:
            client = ready.pop()
            begin = self._next[client]
            end = self._advance(client, begin)
            if end > begin:
                self._next[client] = end
                self.order.append((client, begin, end))
                waiting = self._waiting.get(client)
                reached = self._reached[client]
                while waiting and waiting[0][0] < reached:
                    ready.append(heappop(waiting)[1])

    def _advance(self, client: int, place: int) -> int:
        """Take structs from `place` on while they can be; give the place of the first that was not taken."""
        structs, reached, clocks = self._structs[client], self._reached, self._clocks
        runs = self._runs[client]
        here = reached[client]
        nesting = -1 if not runs else runs[-1] & 0xFFFF
        while place < len(structs):
            struct = structs[place]
            kind, clock, end, _, _, _, origin, right_origin, parent = struct
            if kind == SKIP:
                if place + 1 < len(structs):
                    self._wait(client, client, here)
                break
            if clock > here:
                self._wait(client, client, here)
                break
            for reference in (origin, right_origin, parent):
                if reference is not None and reference[0] != client:
                    other, at = reference
                    if at >= (reached[other] if other in reached else clocks.get(other, 0)):
                        self._wait(client, other, at)
                        reached[client] = here
                        return place
            if right_origin is None and nesting >= 0 and origin == (client, here - 1):
                found = nesting_of(nesting >> 1, kind)  # beside what was just taken
            else:
                found = self._nesting_of(struct)
            if clock < here:
                self._check_known_part(client, here, found)
            if found != nesting:
                runs.append(pack(here, found))
                nesting = found
            reached[client] = here = end
            place += 1
        return place

    def _wait(self, client: int, other: int, clock: int) -> None:
        heappush(self._waiting.setdefault(other, []), (clock, client))

    def _nesting_of(self, struct: Struct) -> int:
        kind, _, _, _, _, _, origin, right_origin, parent = struct
        if kind == GC:
            depth = GONE
        elif origin is not None:
            depth = self._at(origin) >> 1
            if right_origin is not None and depth != GONE:
                right = self._at(right_origin) >> 1
                if right not in (depth, GONE):
                    raise ProtocolViolation("origins lie in different types")
                depth = right
        elif right_origin is not None:
            depth = self._at(right_origin) >> 1
        elif parent is not None:
            depth = child_depth(self._at(parent))
        else:
            depth = 1
        if depth > self._limits.max_depth:
            raise ProtocolViolation("nested too deep")
        return nesting_of(depth, kind)

    def _check_known_part(self, client: int, here: int, found: int) -> None:
        """Refuse a struct that is known in part and now hangs elsewhere: a client that dropped that part would throw."""
        before, depth = self._at((client, here - 1)) >> 1, found >> 1
        if before != depth and GONE not in (before, depth):
            raise ProtocolViolation("struct differs from its known part")

    def _at(self, reference: Id) -> int:
        client, clock = reference
        return nesting_at(self._nesting[client] if clock < self._clocks.get(client, 0) else self._runs[client], clock)

    def part(self, deleted: IdRanges) -> ClosedPart:
        """Give what was taken as an update, with the delete ranges that are of it or known and not yet deleted."""
        whole = self._parsed.tidy
        pieces: list[Piece] = []
        ranges: list[Range] = []
        implied: list[Range] = []
        for client, structs in self._parsed.sections:
            first, stop = self._first[client], self._next[client]
            whole = whole and stop - first == len(structs)
            if first == stop:
                continue
            taken = structs[first:stop]
            content = self._parsed.data[taken[0].start : taken[-1].stop]
            pieces.append(Piece(client, taken[0].clock, len(taken), content))
            ranges.append((client, taken[0].clock, taken[-1].end))
            known = self._clocks.get(client, 0)
            implied += ((client, max(s.clock, known), s.end) for s in taken if s.kind <= DELETED)
        explicit, deletes_whole = self.clip(deleted)
        missing = self._missing()
        if not ranges and not explicit:
            return nothing(missing)
        update = self._parsed.data if whole and deletes_whole else write_update(pieces, explicit)
        deletes = tuple(IdRanges(explicit + implied)) if implied else tuple(explicit)
        return ClosedPart(update, tuple(ranges), deletes, self._depths(), missing)

    def clip(self, deleted: IdRanges) -> tuple[list[Range], bool]:
        """Give the parts of the delete ranges that are there and new, and whether that is all of them."""
        kept: list[Range] = []
        # Nearly all that a client tells when it comes back is deleted already.
        left = deleted.not_covered(self._parsed.deletes)
        whole = len(left) == len(self._parsed.deletes)
        clipped = IdRanges()
        for client, start, end in left:
            reached = self._reached.get(client)
            if reached is None:
                reached = self._clocks.get(client, 0)
            if end > reached:
                self._wait(client, client, reached)
            stop = min(end, reached)
            if stop == end and deleted.disjoint(client, start, end):
                kept.append((client, start, end))
                continue
            whole = False
            # Once for each clock: a few bytes may name the same thousands of gaps again and again.
            for new in clipped.missing(client, start, stop):
                kept += ((client, *part) for part in deleted.missing(client, *new))
            clipped.add(client, start, stop)
        return kept, whole

    def _depths(self) -> tuple[tuple[int, int, int, int], ...]:
        depths = []
        for client, runs in self._runs.items():
            for place, run in enumerate(runs):
                end = runs[place + 1] >> 16 if place + 1 < len(runs) else self._reached[client]
                depths.append((client, run >> 16, end, run & 0xFFFF))
        return tuple(depths)

    def _missing(self) -> tuple[tuple[int, int], ...]:
        """Give the first absent clock of every client that something still waits for."""
        return tuple(
            sorted(
                (client, self._reached[client] if client in self._reached else self._clocks.get(client, 0))
                for client, waiting in self._waiting.items()
                if waiting
            )
        )
