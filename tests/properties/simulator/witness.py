"""What must hold at every step, checked where it can first be seen: at the server's end of each wire, and on the bus."""

from collections import Counter
from typing import TYPE_CHECKING

from constructure_sync.bus.contracts import DocumentMessage, InstanceId, Saved
from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.lib0 import Reader
from constructure_sync.rooms.room import Room
from schemas.ids import CommitId, DocumentId
from tests.properties.simulator.following import Following
from tests.properties.simulator.network import Wire, unframe

if TYPE_CHECKING:
    from tests.properties.simulator.world import World

_BYTES_WHILE_CONGESTED = 2048


class _Seen:
    """What passed over one wire so far."""

    __slots__ = ("congested_bytes", "may_repeat", "promises", "refused", "saved_writes", "sent", "writes")

    def __init__(self) -> None:
        self.writes: list[bytes] = []  # received, in order
        self.saved_writes = 0
        self.refused: list[bytes] = []
        self.sent: Counter[bytes] = Counter()
        self.promises: list[dict[int, int]] = []  # what the client must have at its first, second … SyncStep2
        self.congested_bytes = 0
        self.may_repeat = False


class Witness:
    """Watches wires and bus of a world; a broken rule goes to `world.fail`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.largest = 0  # bytes of an update that a client has sent
        self.messages = 0  # on the bus
        self._published: set[CommitId] = set()
        self._following = Following(world)
        self._seen: dict[Wire, _Seen] = {}
        self._relayed: dict[Room, set[bytes]] = {}

    # ------------------------------------------------------------------ wires

    def received(self, wire: Wire, message: bytes) -> None:
        """A client's message is about to be taken, by a room that is the only one of its document (R3)."""
        room = wire.room
        if room is not None and not room.is_discarded and wire.instance.rooms.room(room.document_id) is not room:
            self._world.fail("R3", "a client writes to a room that is not there any more")
        if message[0] == 0:
            seen = self._of(wire)
            if message[1] == 0:
                seen.sent.clear()  # it asks for everything that it lacks, so what was sent may be sent again
                # While it is being answered, this is put off, and then told also what was sent meanwhile.
                seen.may_repeat |= wire.connection is not None and not wire.connection.is_live
            else:
                seen.writes.append(Reader(message, 2).read_var_bytes())
                self.largest = max(self.largest, len(message))

    def written(self, wire: Wire, framed: bytes) -> None:
        """The room has just written these frames."""
        if wire.room is not None:
            self._following.look(wire.room)
        seen = self._of(wire)
        if wire.is_congested:
            seen.congested_bytes += len(framed)
            if seen.congested_bytes > _BYTES_WHILE_CONGESTED:
                self._world.fail("R4", f"{seen.congested_bytes} bytes are queued for a congested socket")
        else:
            seen.congested_bytes = 0
        for message in unframe(framed):
            if message[0] == 120:
                self._receipt(wire, seen, Reader(message, 1).read_var_uint())
            elif message[0] == 2:
                seen.refused = list(seen.writes)
            elif message[0] == 0 and message[1]:
                self._update(wire, seen, message)

    def _receipt(self, wire: Wire, seen: _Seen, number: int) -> None:
        """R1, R11: each of the first `number` writes that this connection sent is in the log, by whomever it came there."""
        if wire.room is None or number > len(seen.writes):
            self._world.fail("R1", f"a receipt for {number} of {len(seen.writes)} writes")
            return
        committed = self._world.ledger.saved_for(wire.instance.id, wire.room.document_id)
        if not self._world.can_write(wire):
            return  # a reader's derived deletes are dropped and told as done (R12)
        for payload in seen.writes[seen.saved_writes : number]:
            lacking = self._world.lacks(committed, payload)
            if lacking:
                self._world.fail("R1", f"receipt {number} comes before the commit of {lacking}")
        for client, clock in self._world.claim(wire, number).items():
            if committed.clocks.get(client, 0) < clock:
                self._world.fail("R11", f"receipt {number} comes before the commit of {client} to {clock}")
        seen.saved_writes = max(seen.saved_writes, number)

    def _update(self, wire: Wire, seen: _Seen, message: bytes) -> None:
        room = wire.room
        if room is None:
            self._world.fail("R5", "an update before the join")
            return
        known = room.history.known
        if message[1] == 1:
            seen.promises.append(dict(known.clocks))
        relayed = self._relayed.setdefault(room, set())
        if message not in relayed:
            # R3: what is sent was read, and everything it needs is known.
            try:
                lacking = self._world.lacks(known, Reader(message, 2).read_var_bytes())
                if lacking:
                    self._world.fail("R2", f"relayed what the room has not taken: {lacking}")
            except ProtocolViolation as violation:
                self._world.fail("R2", f"relayed what the strict reader refuses: {violation.reason}")
            relayed.add(message)
        if message[1] == 2:
            seen.sent[message] += 1
            if seen.sent[message] > 1 and not (self._world.may_repeat or seen.may_repeat):
                self._world.fail("R5", "an update is sent twice to one connection")

    def must_have(self, wire: Wire) -> dict[int, int]:
        """Return the state vector that the room had when it wrote the SyncStep2 that the client has just read."""
        promises = self._of(wire).promises
        return promises.pop(0) if promises else {}

    def closed(self, wire: Wire, code: int) -> None:
        """The server closes a wire."""
        self._world.closed_by_server(wire, code)

    def ended(self, wire: Wire) -> None:
        """R8: what a socket said of who is present goes with it, unless the user's other socket has taken it over."""
        self._seen.pop(wire, None)
        if wire.room is not None:
            live = {client for connection in wire.room.connections for client in connection.attendee.ids}
            present = self._world.present(wire.room)
            if not present <= live:
                self._world.fail("R8", f"{present - live} are present without a socket")

    def refused(self, wire: Wire) -> list[bytes]:
        """Return the write messages that were received over a wire before its client was told that it is refused."""
        return self._of(wire).refused

    def _of(self, wire: Wire) -> _Seen:
        seen = self._seen.get(wire)
        if seen is None:
            seen = self._seen[wire] = _Seen()
        return seen

    # ------------------------------------------------------------------ the bus

    def published(self, document_id: DocumentId, message: DocumentMessage) -> None:
        """An instance tells the others something: of each commit only its author, once, and only when it is made (R1)."""
        self.messages += 1
        if isinstance(message, Saved):
            if message.commit in self._published:
                self._world.fail("R6", f"commit {message.first} is published twice")
            self._published.add(message.commit)
            if not self._world.ledger.was_made(document_id, message.commit):
                self._world.fail("R1", f"{message.first} to {message.last} is published before its commit")

    def arrived(self, instance: InstanceId, document_id: DocumentId, message: DocumentMessage) -> None:
        """An instance is about to hear this."""
        if isinstance(message, Saved):
            self._world.ledger.heard(instance, document_id, message.commit)
        room = self._world.room(instance, document_id)
        if room is not None:
            self._following.look(room)

    def unsubscribed(self) -> None:
        """A room has been let go."""
        self._world.ledger.holders_changed()

    def look_at_rooms(self) -> None:
        """Look at every open room, also at those where nothing passes."""
        for document_id in self._world.documents:
            for room in self._world.rooms(document_id):
                self._following.look(room)
