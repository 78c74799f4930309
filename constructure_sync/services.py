"""The only place that chooses implementations: from the settings, everything that one instance runs on."""

import asyncio
import ipaddress
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from auth.documents import DocumentAccess
from auth.passwords import Passwords
from auth.tokens import Tokens
from constructure_sync.bus.contracts import Bus
from constructure_sync.bus.local import LocalBus, LocalHub
from constructure_sync.bus.redis_bus import RedisBus
from constructure_sync.gate import Gate, Origins
from constructure_sync.graph.deriver import Deriver
from constructure_sync.observability import CIRCUIT_BREAKER, get_logger
from constructure_sync.persistence.compactor import CompactionLimits, Compactor
from constructure_sync.persistence.log_writer import CommitLimits, LogWriter
from constructure_sync.persistence.sweeper import Sweeper
from constructure_sync.persistence.upkeep import Upkeep, UpkeepJob, in_one_step
from constructure_sync.replica.pool import WorkerPool
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.registry import Rooms
from constructure_sync.rooms.services import Budget, RoomServices
from constructure_sync.settings import PREFIX, Settings, SettingsError, load_secret_key
from constructure_sync.transport.acceptor import Acceptor, SocketLimits
from storage.breaker import BreakerState
from storage.open import Database, open_database
from storage.partitions import ensure_partitions

_log = get_logger()
_PARTITIONS_SECONDS = 6 * 3600.0
_NICE = 10  # how far background work stands behind what a client waits for


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
    gate: Gate
    acceptor: Acceptor


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


def _jobs(settings: Settings, database: Database, compactor: Compactor, rooms: Rooms) -> tuple[UpkeepJob, ...]:
    sweeper = Sweeper(database.log, compactor, lambda document_id: rooms.room(document_id) is not None)
    partitions = in_one_step(lambda: ensure_partitions(database.connections, time.time()))
    return (
        UpkeepJob("sweep", settings.sweep_minutes * 60, sweeper.sweep),
        UpkeepJob("partitions", _PARTITIONS_SECONDS, partitions),
    )


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Open everything, run the instance's tasks, and close it all in the reverse order."""
    loop, randomness = asyncio.get_running_loop(), random.SystemRandom()
    secret = load_secret_key(settings)
    database = await open_database(settings.database_address, settings.database_options, breaker_told=_tell_breaker)
    async with (
        database,
        WorkerPool(settings.replica_workers) as workers,
        WorkerPool(1, _NICE) as background,
        # The projection documents live in one process, so that each is found where it was left.
        WorkerPool(1, _NICE) as projections,
    ):
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
            background=background,
            stranded=database.stranded,
            budget=budget,
            randomness=randomness,
            on_saved=deriver.saved,
        )
        retention = settings.raw_row_retention_days * 86_400
        compaction = CompactionLimits(segment_bytes=settings.segment_bytes, raw_rows_seconds=retention)
        compactor = Compactor(database.log, background, compaction)
        rooms = Rooms(database.log, room_services, compactor)
        upkeep = Upkeep(_jobs(settings, database, compactor, rooms), database.leases, f"{bus.instance:x}", randomness)
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
