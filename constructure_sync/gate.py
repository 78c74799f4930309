"""Who gets in, to which room, with which rights; and whether that is still so while they stay (design §3 step 1)."""

import asyncio
import re
from collections import Counter
from collections.abc import Container
from itertools import count

from auth.documents import Denied, DocumentAccess, Grant
from constructure_sync.bus.contracts import Bus, ControlMessage, InstanceId, RightsChanged
from constructure_sync.errors import ConstructureError
from constructure_sync.observability import get_logger
from constructure_sync.protocol.closes import DELETED, FORBIDDEN, LINEAGE, UNAUTHENTICATED
from constructure_sync.rooms.connection import Connection, Member
from constructure_sync.rooms.registry import DocumentNotFound, Rooms
from constructure_sync.rooms.room import Room
from constructure_sync.rooms.socket import Socket
from constructure_sync.settings import Settings
from constructure_sync.transport.admission import HOCUSPOCUS_PATH, Admitted, Refused, UpgradeRequest
from schemas.ids import CourseId, SessionId, UserId
from storage.contracts import StorageError

_log = get_logger()
_RECHECK_SECONDS = 30.0
_UNAVAILABLE = 503
_LOOPBACK_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")


class _Held:
    """The rights behind an open socket. rechecked: number of the newest recheck that took effect; older ones then do not."""

    __slots__ = ("_gate", "connection", "grant", "rechecked")

    def __init__(self, gate: "Gate", grant: Grant) -> None:
        self._gate = gate
        self.connection: Connection | None = None
        self.grant = grant
        self.rechecked = 0

    def end(self) -> None:
        """The socket is gone."""
        self._gate.ended(self)


class Gate:
    """Lets clients in: who they are, what they may do, which room is theirs; and looks again while they stay."""

    def __init__(self, access: DocumentAccess, rooms: Rooms, bus: Bus, max_per_user: int) -> None:
        self._access = access
        self._rooms = rooms
        self._bus = bus
        self._max_per_user = max_per_user
        self._changed: set[CourseId | SessionId] = set()
        self._must_recheck = asyncio.Event()
        bus.listen(self)
        self._by_user: Counter[UserId] = Counter()
        self._open: dict[Connection, _Held] = {}
        self._rechecks = count(1)
        self._changes_told = 0

    async def admit(self, request: UpgradeRequest) -> Admitted | Refused:
        """Decide over an upgrade request (design §3 step 1)."""
        if request.path == HOCUSPOCUS_PATH:
            return Refused(404, "not_found", "There is no such document.")
        changes_told = self._changes_told
        if request.token is None:
            return Refused(401, "unauthenticated", "A token is needed: ?token= or a constructure.token subprotocol.")
        grant = await self._access.authorise_document(request.token, request.path.removeprefix("/sync/"))
        if isinstance(grant, Denied):
            return Refused(grant.status, grant.code, grant.detail)
        if request.query.get("lineage", str(grant.lineage)) != str(grant.lineage):
            return Refused(409, "other_lineage", "The local copy belongs to another lineage of this document.")
        if self._by_user[grant.user_id] >= self._max_per_user:
            return Refused(429, "too_many_connections", "This user has too many connections.")
        try:
            room = await self._rooms.open(grant.document_id)
        except DocumentNotFound:
            return Refused(404, "not_found", "There is no such document.")
        except (StorageError, ConstructureError, TimeoutError) as error:  # also a damaged log: see docs/operations.md
            _log.error("document_not_opened", document=str(grant.document_id), error=repr(error))
            return Refused(503, "unavailable", "The document cannot be opened now; try again.")
        wants_receipts = request.query.get("ack") == "seq"
        return Admitted(lambda socket: self._join(room, grant, wants_receipts, changes_told, socket))

    def _join(self, room: Room, grant: Grant, wants_receipts: bool, changes_told: int, socket: Socket) -> Connection:
        self._by_user[grant.user_id] += 1
        member = Member(grant.user_id, grant.user_name, grant.can_write, wants_receipts)
        held = _Held(self, grant)
        connection = held.connection = self._rooms.join(room, member, socket, held.end)
        self._open[connection] = held
        if changes_told != self._changes_told:  # while the room was being opened: perhaps it was this one's right
            self._look_at(grant.course_id)
        return connection

    def ended(self, held: _Held) -> None:
        """A socket that was let in is gone."""
        if held.connection is not None:
            self._open.pop(held.connection, None)
        user_id = held.grant.user_id
        self._by_user[user_id] -= 1
        if not self._by_user[user_id]:
            del self._by_user[user_id]

    async def run(self) -> None:
        """Look again at every open socket's rights, for ever: what has ended or was lowered takes effect on live sockets.

        At once at those of which another instance tells that they have changed, and at all of them every 30 s.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_changes(), name="rights that changed")
            tasks.create_task(self._look_at_everybody(), name="rights of everybody")

    async def _follow_changes(self) -> None:
        while True:
            await self._must_recheck.wait()
            self._must_recheck.clear()
            changed, self._changed = self._changed, set()
            await self._recheck_all(changed)

    async def _look_at_everybody(self) -> None:
        while True:
            await asyncio.sleep(_RECHECK_SECONDS)
            for connection, held in list(self._open.items()):
                await self._recheck(connection, held)

    def _look_at(self, of: CourseId | SessionId) -> None:
        self._changed.add(of)
        self._must_recheck.set()

    async def _recheck_all(self, changed: Container[CourseId | SessionId]) -> None:
        for connection, held in list(self._open.items()):
            if held.grant.course_id in changed or held.grant.session_id in changed:
                await self._recheck(connection, held)

    async def rights_changed(self, of: CourseId | SessionId) -> None:
        """Judge the open sockets of a course or of a sign-in by their new rights, here at once and elsewhere soon."""
        self._changes_told += 1
        self._bus.tell_all(RightsChanged(of))
        await self._recheck_all({of})

    def told(self, instance: InstanceId, message: ControlMessage) -> None:
        """Another instance says that rights have changed (see `ControlSubscriber`)."""
        if isinstance(message, RightsChanged):
            self._changes_told += 1
            self._look_at(message.of)

    def missed_control(self) -> None:
        """Such a message may have been lost: look at everybody."""
        self._changes_told += 1
        for held in self._open.values():
            self._look_at(held.grant.course_id)

    async def _recheck(self, connection: Connection, held: "_Held") -> None:
        number = next(self._rechecks)
        outcome = await self._access.recheck(held.grant)
        if connection.has_ended or held.rechecked > number or _is_unknown(outcome):
            return
        held.rechecked = number
        if isinstance(outcome, Grant):
            held.grant = outcome
            connection.set_right_to_write(outcome.can_write)
        else:
            code = {401: UNAUTHENTICATED, 404: DELETED, 409: LINEAGE}.get(outcome.status, FORBIDDEN)
            connection.close(code, outcome.detail)


def _is_unknown(outcome: Grant | Denied) -> bool:
    """The database being away takes nobody's rights: they are looked at when it is back."""
    return isinstance(outcome, Denied) and outcome.status == _UNAVAILABLE


class Origins(Container[str]):
    """The origins whose pages may connect: those of the settings; else the public URL's, and any of loopback while bound to it."""

    def __init__(self, settings: Settings) -> None:
        self._exact = frozenset(settings.allowed_origins or ([settings.public_url] if settings.public_url else []))
        self._loopback = settings.listens_on_loopback and not settings.allowed_origins

    def __contains__(self, origin: object) -> bool:
        return origin in self._exact or (
            self._loopback and isinstance(origin, str) and _LOOPBACK_ORIGIN.fullmatch(origin) is not None
        )
