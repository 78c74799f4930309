"""Who gets in, to which room, with which rights; and whether that is still so while they stay (design §3 step 1)."""

import asyncio
import re
from collections import Counter
from collections.abc import Container

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
        self._open: dict[Connection, Grant] = {}

    async def admit(self, request: UpgradeRequest) -> Admitted | Refused:
        """Decide over an upgrade request (design §3 step 1)."""
        if request.path == HOCUSPOCUS_PATH:
            return Refused(404, "not_found", "There is no such document.")
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
        return Admitted(lambda socket: self._join(room, grant, wants_receipts, socket))

    def _join(self, room: Room, grant: Grant, wants_receipts: bool, socket: Socket) -> Connection:
        self._by_user[grant.user_id] += 1
        member = Member(grant.user_id, grant.user_name, grant.can_write, wants_receipts)

        def ended() -> None:
            self._open.pop(connection, None)
            self._by_user[grant.user_id] -= 1
            if not self._by_user[grant.user_id]:
                del self._by_user[grant.user_id]

        connection = self._rooms.join(room, member, socket, ended)
        self._open[connection] = grant
        return connection

    async def run(self) -> None:
        """Look again at every open socket's rights, for ever: what has ended or was lowered takes effect on live sockets.

        At once at those of which another instance tells that they have changed, and at all of them every 30 s.
        """
        loop = asyncio.get_running_loop()
        everybody_at = loop.time() + _RECHECK_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(everybody_at):
                    await self._must_recheck.wait()
                self._must_recheck.clear()
                changed, self._changed = self._changed, set()
                concerned = [each for each in self._open.items() if _concerns(each[1], changed)]
            except TimeoutError:
                everybody_at = loop.time() + _RECHECK_SECONDS
                concerned = list(self._open.items())
            for connection, grant in concerned:
                await self._recheck(connection, grant)

    async def rights_changed(self, of: CourseId | SessionId) -> None:
        """Judge the open sockets of a course or of a sign-in by their new rights, here at once and elsewhere soon."""
        self._bus.tell_all(RightsChanged(of))
        for connection, grant in list(self._open.items()):
            if _concerns(grant, {of}):
                await self._recheck(connection, grant)

    def told(self, instance: InstanceId, message: ControlMessage) -> None:
        """Another instance says that rights have changed (see `ControlSubscriber`)."""
        if isinstance(message, RightsChanged):
            self._changed.add(message.of)
            self._must_recheck.set()

    def missed_control(self) -> None:
        """Such a message may have been lost: look at everybody."""
        self._changed.update(grant.course_id for grant in self._open.values())
        self._must_recheck.set()

    async def _recheck(self, connection: Connection, grant: Grant) -> None:
        outcome = await self._access.recheck(grant)
        if connection.has_ended:
            return
        if isinstance(outcome, Grant):
            self._open[connection] = outcome
            connection.set_right_to_write(outcome.can_write)
        elif (
            outcome.status != _UNAVAILABLE
        ):  # the database being away takes nobody's rights: they are looked at when it is back
            code = {401: UNAUTHENTICATED, 404: DELETED, 409: LINEAGE}.get(outcome.status, FORBIDDEN)
            connection.close(code, outcome.detail)


def _concerns(grant: Grant, changed: Container[CourseId | SessionId]) -> bool:
    return grant.course_id in changed or grant.session_id in changed


class Origins(Container[str]):
    """The origins whose pages may connect: those of the settings; else the public URL's, and any of loopback while bound to it."""

    def __init__(self, settings: Settings) -> None:
        self._exact = frozenset(settings.allowed_origins or ([settings.public_url] if settings.public_url else []))
        self._loopback = settings.listens_on_loopback and not settings.allowed_origins

    def __contains__(self, origin: object) -> bool:
        return origin in self._exact or (
            self._loopback and isinstance(origin, str) and _LOOPBACK_ORIGIN.fullmatch(origin) is not None
        )
