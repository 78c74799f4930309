"""How a room follows its log (R6): its history is closed at every entry, and holds all that lies before its place in the log."""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from constructure_sync.protocol.known import Known
from constructure_sync.rooms.room import Room
from storage.contracts import BEGINNING

if TYPE_CHECKING:
    from tests.properties.simulator.world import World


class _Followed:
    """One room, as far as it was looked at. seen: position in its history. place: in its log; all before it is there."""

    __slots__ = ("epoch", "known", "place", "seen")

    def __init__(self) -> None:
        self.known = Known()
        self.seen: int | None = None
        self.place = BEGINNING
        self.epoch = 0


class Following:
    """Looks at rooms; a broken rule goes to `world.fail`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._rooms: WeakKeyDictionary[Room, _Followed] = WeakKeyDictionary()

    def look(self, room: Room) -> None:
        """See what the room has taken since the last look."""
        followed = self._rooms.get(room)
        if followed is None:
            followed = self._rooms[room] = _Followed()
        if followed.seen != room.history.head:
            self._look_at_history(room, followed)
        if followed.place != self._world.place(room) or followed.epoch != self._world.ledger.epoch:
            self._look_at_place(room, followed)

    def _look_at_history(self, room: Room, followed: _Followed) -> None:
        """Every entry integrates on top of those before it. What was folded unseen is looked at as it is now."""
        history = room.history
        if followed.seen is None or followed.seen < history.tail_start:
            followed.known, followed.seen = Known(), history.first
        for position in range(followed.seen, history.head):
            part = followed.known.close(history.piece(position).update)
            if part.missing:
                self._world.fail("R6", f"a room's history is not closed: {part.missing} is missing")
            followed.known.add(part)
        followed.seen = history.head

    def _look_at_place(self, room: Room, followed: _Followed) -> None:
        """A room that says to stand at a place of the log holds all that the log holds up to there."""
        place, ledger = self._world.place(room), self._world.ledger
        book = ledger.books[room.document_id]
        if followed.epoch != ledger.epoch:
            followed.place, followed.epoch = BEGINNING, ledger.epoch
        if not book.holds(place) or place.seq < followed.place.seq:
            followed.place = BEGINNING  # the room stands in a log that was set back
            return
        for logged in book.lines[followed.place.seq : place.seq]:
            lacking = self._world.lacks(room.history.known, logged.update)
            if lacking:
                self._world.fail("R6", f"a room stands at {place.seq} and lacks {lacking}")
                break
        followed.place = place
