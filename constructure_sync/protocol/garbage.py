"""What hangs below deleted types: no client shows it or ever will, so Yjs keeps only its lengths, as GC structs.

Where an item hangs follows from its origins, as in Yjs: it lies in the type in which its left origin lies, else its right one;
only an item without origins names its parent.
"""

from bisect import bisect_right

from constructure_sync.protocol.id_ranges import IdRanges
from constructure_sync.protocol.update_reader import GC, TYPE, Id, ParsedUpdate, Struct

_UNKNOWN, _ELSEWHERE, _BELOW = range(3)


def below_deleted(parsed: ParsedUpdate, deletes: IdRanges) -> dict[int, bytearray]:
    """Give per client a flag for each struct: 1 when it surely hangs below something deleted, or is garbage already.

    deletes: what is deleted in the whole document. Of what refers outside the update only a deleted parent is sure. Nothing
    is flagged where an item that lies elsewhere refers to what would be: no stock client writes such, and it would be lost.
    """
    flags = _Places(parsed, deletes).flags()
    return flags or {client: bytearray(len(structs)) for client, structs in parsed.sections}


class _Places:
    """Where the structs of one update hang."""

    def __init__(self, parsed: ParsedUpdate, deletes: IdRanges) -> None:
        self._deletes = deletes
        self._structs = dict(parsed.sections)
        self._clocks = {client: [struct.clock for struct in structs] for client, structs in parsed.sections}
        self._states = {client: bytearray(len(structs)) for client, structs in parsed.sections}

    def flags(self) -> dict[int, bytearray]:
        """Give the flags of `below_deleted`; empty when none may be set."""
        if not any(map(self._may_lead_below, self._structs)):
            return {}
        for client, states in self._states.items():
            for place in range(len(states)):
                self._resolve(client, place)
        if any(map(self._is_held_from_elsewhere, self._structs)):
            return {}
        return {client: states.translate(_AS_FLAGS) for client, states in self._states.items()}

    def _may_lead_below(self, client: int) -> bool:
        """Whether a struct of this client is a deleted type, garbage, or hangs in a deleted parent."""
        covers = self._deletes.covers
        return any(
            struct.kind == GC
            or (struct.kind == TYPE and covers(client, struct.clock, struct.end))
            or (struct.parent is not None and covers(*struct.parent, struct.parent[1] + 1))
            for struct in self._structs[client]
        )

    def _resolve(self, client: int, place: int) -> None:
        """Find out where a struct hangs, and with it those that lead there."""
        path: list[tuple[int, int]] = []
        while (state := self._states[client][place]) == _UNKNOWN:
            path.append((client, place))
            struct = self._structs[client][place]
            known, reference = self._follow(struct)
            found = None if reference is None else self._find(reference)
            if found is None:
                state = known
                break
            client, place = found
        for client, place in path:
            self._states[client][place] = state

    def _follow(self, struct: Struct) -> tuple[int, Id | None]:
        """Give what is known of a struct's place, and the id that knows more."""
        if struct.kind == GC:
            return _BELOW, None
        reference = struct.origin or struct.right_origin
        if reference is None and struct.parent is not None:
            owner, clock = reference = struct.parent
            if self._deletes.covers(owner, clock, clock + 1):
                return _BELOW, None
        return _ELSEWHERE, reference

    def _find(self, reference: Id) -> tuple[int, int] | None:
        """Give client and place of the struct that holds this id; None: it is not in this update."""
        client, clock = reference
        clocks = self._clocks.get(client)
        if clocks is None or not clocks[0] <= clock < self._structs[client][-1].end:
            return None
        return client, bisect_right(clocks, clock) - 1

    def _is_held_from_elsewhere(self, client: int) -> bool:
        """Whether a struct of this client that lies elsewhere has a right neighbour below something deleted."""
        for struct, state in zip(self._structs[client], self._states[client], strict=True):
            if state == _ELSEWHERE and struct.right_origin is not None:
                found = self._find(struct.right_origin)
                if found is not None and self._states[found[0]][found[1]] == _BELOW:
                    return True
        return False


_AS_FLAGS = bytes(state == _BELOW for state in range(256))
