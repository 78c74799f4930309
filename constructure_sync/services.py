"""The only place that chooses implementations: from the settings, everything that one instance runs on."""

import asyncio
import ipaddress
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from dataclasses import dataclass

from auth.documents import Denied, DocumentAccess, Grant
from auth.passwords import Passwords
from auth.tokens import Tokens
from constructure_sync.bus.contracts import Bus, ControlMessage, InstanceId, RightsChanged
from constructure_sync.bus.local import LocalBus, LocalHub
from constructure_sync.bus.redis_bus import RedisBus
from constructure_sync.errors import ConstructureError
from constructure_sync.graph.deriver import Deriver
from constructure_sync.observability import CIRCUIT_BREAKER, get_logger
from constructure_sync.persistence.compactor import CompactionLimits, Compactor
from constructure_sync.persistence.log_writer import CommitLimits, LogWriter
from constructure_sync.persistence.sweeper import Sweeper
from constructure_sync.persistence.upkeep import Upkeep, UpkeepJob, in_one_step
from constructure_sync.protocol.closes import DELETED, FORBIDDEN, LINEAGE, UNAUTHENTICATED
from constructure_sync.replica.pool import WorkerPool
from constructure_sync.rooms.connection import Connection, Member
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.registry import DocumentNotFound, Rooms
from constructure_sync.rooms.room import Room
from constructure_sync.rooms.services import Budget, RoomServices
from constructure_sync.rooms.socket import Socket
from constructure_sync.settings import PREFIX, Settings, SettingsError, load_secret_key
from constructure_sync.transport.acceptor import Acceptor, SocketLimits
from constructure_sync.transport.admission import HOCUSPOCUS_PATH, Admitted, Refused, UpgradeRequest
from schemas.ids import CourseId, SessionId, UserId
from storage.breaker import BreakerState
from storage.contracts import StorageError
from storage.open import Database, open_database
from storage.partitions import ensure_partitions

_log = get_logger()
_RECHECK_SECONDS = 30.0
_UNAVAILABLE = 503
_PARTITIONS_SECONDS = 6 * 3600.0
_LOOPBACK_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Services:
    """What app and command line put together into a server."""

    settings: Settings
    database: Database
    tokens: Tokens
    passwords: Passwords
    workers: WorkerPool
    log_writer: LogWriter
    bus: Bus
    rooms: Rooms
    gate: "Gate"
    acceptor: Acceptor


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


def room_limits(settings: Settings) -> RoomLimits:
    """Return the limits of rooms and connections that the settings name."""
    return RoomLimits(
        max_document_bytes=settings.max_document_bytes,
        viewer_frame_bytes=settings.viewer_frame_bytes,
        awareness_entry_bytes=settings.awareness_bytes,
        awareness_per_second=settings.awareness_per_second,
        worker_frame_bytes=settings.worker_frame_bytes,
        in_flight_bytes=settings.in_flight_bytes,
        segment_bytes=settings.segment_bytes,
        keepalive=settings.keepalive_seconds,
        idle_grace=settings.room_idle_seconds,
        close_delay=settings.close_delay_seconds,
    )


def open_bus(settings: Settings, loop: asyncio.AbstractEventLoop, randomness: random.Random) -> Bus:
    """Return the way to the other instances that the settings name. SettingsError: its URL cannot be used."""
    instance = randomness.getrandbits(53)
    if settings.bus_url.startswith("local:"):
        return LocalBus(LocalHub(), instance, loop)
    try:
        return RedisBus(settings.bus_url, settings.bus_prefix, instance, loop, randomness)
    except ValueError as error:
        raise SettingsError(f"{PREFIX}BUS_URL: {error}") from error


def _tell_breaker(state: BreakerState) -> None:
    for each in BreakerState:
        CIRCUIT_BREAKER.labels("database", each.value).set(each is state)
    _log.warning("circuit_breaker", service="database", state=state.value)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Open everything, run the instance's tasks, and close it all in the reverse order."""
    loop, randomness = asyncio.get_running_loop(), random.SystemRandom()
    secret = load_secret_key(settings)
    database = await open_database(settings.database_address, settings.database_options, breaker_told=_tell_breaker)
    # The projection documents live in one process, so that each is found where it was left.
    async with database, WorkerPool(settings.replica_workers) as workers, WorkerPool(1) as projections:
        tokens = Tokens(
            secret,
            access_lifetime=round(settings.access_token_minutes * 60),
            connect_lifetime=round(settings.connect_token_minutes * 60),
        )
        passwords = Passwords(threads=settings.password_threads)
        commit_limits = CommitLimits(
            max_updates=settings.log_batch_updates,
            max_bytes=settings.log_batch_bytes,
            unsaved_bytes=settings.unsaved_bytes,
            append_timeout=settings.database_timeout_seconds * 2,
        )
        log_writer = LogWriter(database.log, commit_limits, loop, randomness)
        limits = room_limits(settings)
        budget = Budget(limits.in_flight_bytes)
        deriver = Deriver(database.log, database.courses, projections)
        bus = open_bus(settings, loop, randomness)
        room_services = RoomServices(
            loop=loop,
            limits=limits,
            log=database.log,
            bus=bus,
            log_writer=log_writer,
            workers=workers,
            stranded=database.stranded,
            budget=budget,
            randomness=randomness,
            on_saved=deriver.changed,
        )
        retention = settings.raw_row_retention_days * 86_400
        compaction = CompactionLimits(segment_bytes=settings.segment_bytes, raw_rows_seconds=retention)
        compactor = Compactor(database.log, workers, compaction)
        rooms = Rooms(database.log, room_services, compactor)
        sweeper = Sweeper(database.log, compactor, lambda document_id: rooms.room(document_id) is not None)
        jobs = (
            UpkeepJob("sweep", settings.sweep_minutes * 60, sweeper.sweep),
            UpkeepJob(
                "partitions",
                _PARTITIONS_SECONDS,
                in_one_step(lambda: ensure_partitions(database.connections, time.time())),
            ),
        )
        upkeep = Upkeep(jobs, database.leases, f"{bus.instance:x}", randomness)
        gate = Gate(DocumentAccess(tokens, database.courses), rooms, bus, settings.max_connections_per_user)
        sockets = SocketLimits(
            max_sockets=settings.max_connections,
            max_sockets_per_address=settings.max_connections_per_address,
            stuck_timeout=settings.stuck_socket_seconds,
            trusted_proxies=tuple(ipaddress.ip_network(network) for network in settings.trusted_proxies),
        )
        acceptor = Acceptor(gate.admit, Origins(settings), sockets)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(log_writer.run(), name="log writer"),
                tasks.create_task(bus.run(), name="bus"),
                tasks.create_task(rooms.run(), name="rooms"),
                tasks.create_task(rooms.follow_heads(), name="heads of the logs"),
                tasks.create_task(gate.run(), name="rights"),
                tasks.create_task(upkeep.run(), name="upkeep"),
                tasks.create_task(deriver.run(), name="deriver"),
            ]
            try:
                yield Services(settings, database, tokens, passwords, workers, log_writer, bus, rooms, gate, acceptor)
                await rooms.drain(settings.database_timeout_seconds)
            finally:
                for task in running:
                    task.cancel()
                passwords.close()
