"""What a room does not take: kept aside, and told (R10). A reader's deletes are dropped, its structs are judged in time (R12)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import UPDATES_EMPTY, UPDATES_REFUSED
from constructure_sync.protocol.closes import BY_CODE, FORBIDDEN, OVERLOADED
from constructure_sync.protocol.known import ClosedPart
from constructure_sync.rooms.connection import Connection
from constructure_sync.rooms.history import Entry
from constructure_sync.rooms.services import RoomServices
from constructure_sync.rooms.stranding import Stranding
from schemas.ids import UserId

if TYPE_CHECKING:
    from constructure_sync.rooms.room import Room

_READ_ONLY = "your role does not allow changes"


class Refusals:
    """The refused writes of one room."""

    def __init__(self, room: "Room", services: RoomServices) -> None:
        self._room = room
        self._stranding = Stranding(room.document_id, services.stranded, services.workers, services.limits)

    def refuse_reader(self, connection: Connection, update: bytes, part: ClosedPart, is_answer: bool) -> None:
        """A reader's deletes are its client's own doing and are dropped silently (R12); its structs are a write (R10).

        What a reader's SyncStep2 only holds as pending is not a write of its own: nobody can take it. What it holds beyond that may
        be an author's who was relayed and not saved when the server went down: the author is given a moment to come back first.
        """
        if is_answer and part.adds_structs and self._room.limits.conveyed_grace:
            connection.hold()
            self._room.own("keep what may be conveyed", self._keep_conveyed, connection, min(_clients(part)), update)
        elif part.adds_structs or (part.missing and not is_answer):
            UPDATES_REFUSED.labels("role").inc()
            self.refuse(connection, update, part, FORBIDDEN, _READ_ONLY)
        else:
            UPDATES_EMPTY.inc()
            connection.note_write(is_answer=is_answer, missing=())

    def refuse(self, connection: Connection, update: bytes, part: ClosedPart, code: int, reason: str) -> None:
        """Take nothing more from this connection, keep what it wrote, and only then tell it so (R10)."""
        connection.is_refused = True
        connection.hold()
        self._room.own(
            "keep a stranded change", self._keep_refused, connection, min(_clients(part)), update, code, reason
        )

    async def _keep_conveyed(self, connection: Connection, client_id: int, update: bytes) -> None:
        """Keep a reader's SyncStep2 at once; judge it when its authors have had their time."""
        if await self._stranding.keep(connection.member.user_id, client_id, [update], BY_CODE[FORBIDDEN].name):
            if connection.conveyed is None:
                self._room.loop.call_later(self._room.limits.conveyed_grace, self._judge_conveyed, connection)
            connection.note_conveyed(update)
            connection.read_on()
        else:
            connection.close(OVERLOADED, "what is refused cannot be kept for now")

    def _judge_conveyed(self, connection: Connection) -> None:
        """Everything that this reader brought is known by now, or it wrote itself."""
        update, connection.conveyed = connection.conveyed, None
        if update is None or self._room.is_discarded or connection.has_ended:
            return
        try:
            adds_structs = self._room.history.known.close(update).adds_structs
        except ProtocolViolation as violation:
            connection.close(violation.code, violation.reason)  # it contradicts what others have written since
            return
        if not adds_structs:
            connection.conveyed_is_known()
        elif connection.member.can_write:
            connection.ask()  # its role was raised meanwhile: let it bring this again, as a writer
        else:
            UPDATES_REFUSED.labels("role").inc()
            connection.is_refused = True
            connection.refuse(FORBIDDEN, _READ_ONLY)

    async def _keep_refused(
        self, connection: Connection, client_id: int, update: bytes, code: int, reason: str
    ) -> None:
        if await self._stranding.keep(connection.member.user_id, client_id, [update], BY_CODE[code].name):
            connection.refuse(code, reason)
            connection.read_on()
        else:
            # The client still holds what it wrote, and sends it again when it comes back.
            connection.close(OVERLOADED, "what is refused cannot be kept for now")

    def strand_unsaved(self, unsaved: Iterable[Entry], code: int) -> None:
        """Keep what was taken and will not be saved, also from those who have left since (R10)."""
        by_user: dict[UserId, list[Entry]] = {}
        for entry in unsaved:
            if entry.user_id is not None:
                by_user.setdefault(entry.user_id, []).append(entry)
        for user_id, entries in by_user.items():
            client_id = min([client for entry in entries for client, _, _ in entry.ranges] or [0])
            updates = [entry.update for entry in entries]
            self._room.own(
                "keep unsaved updates", self._stranding.keep, user_id, client_id, updates, BY_CODE[code].name
            )


def _clients(part: ClosedPart) -> list[int]:
    """Return the client ids whose structs a part holds, or else lacks."""
    return [client for client, _, _ in part.ranges] or [client for client, _ in part.missing] or [0]
