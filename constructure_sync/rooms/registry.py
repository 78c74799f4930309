"""The rooms of this instance: absent → loading → live → draining → absent.

Loads are shared by all who wait; a failed load fails them all and caches nothing. A room goes only when it is clean and nobody has
been in it for a while, and then its log is looked at for compaction.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from constructure_sync.bus.contracts import DocumentMessage, InstanceId
from constructure_sync.errors import ConstructureError
from constructure_sync.observability import CONNECTIONS_BEHIND, ROOMS, ROOMS_LOADED, get_logger
from constructure_sync.persistence.compactor import Compactor, decode_pieces
from constructure_sync.protocol.closed_part import Summary
from constructure_sync.protocol.closes import RESTART
from constructure_sync.protocol.update_reader import STORED_LIMITS
from constructure_sync.replica.jobs import FoldedPiece, replay
from constructure_sync.rooms.connection import SWEEPS_PER_KEEPALIVE, Connection, Member
from constructure_sync.rooms.history import History
from constructure_sync.rooms.room import Room
from constructure_sync.rooms.services import RoomServices
from constructure_sync.rooms.socket import Socket
from schemas.ids import DocumentId
from storage.contracts import StorageError, StoredDocument, UpdateLog

P = ParamSpec("P")

_log = get_logger()
_LONG_TAIL_UPDATES = 64  # beyond it a stored tail is read and folded in a worker
_LONG_TAIL_BYTES = 64 * 1024


class DocumentNotFound(ConstructureError):
    """No document has this id."""


class _Listener:
    """Hears the bus for a document from before its room is loaded, so that nothing falls between the two."""

    __slots__ = ("_has_heard", "_room")

    def __init__(self) -> None:
        self._room: Room | None = None
        self._has_heard = False

    def heard(self, instance: InstanceId, message: DocumentMessage) -> None:
        if self._room is None:
            self._has_heard = True
        else:
            self._room.heard(instance, message)

    def missed(self) -> None:
        if self._room is None:
            self._has_heard = True
        else:
            self._room.missed()

    def pass_on_to(self, room: Room) -> None:
        """From now on the room hears for itself."""
        self._room = room
        if self._has_heard:
            room.missed()


class Rooms:
    """Opens, keeps and evicts rooms. One owner of everything that happens to a room from outside."""

    def __init__(self, log: UpdateLog, services: RoomServices, compactor: Compactor) -> None:
        self._stored = log
        self._services = services
        self._compactor = compactor
        self._rooms: dict[DocumentId, Room] = {}
        self._loading: dict[DocumentId, asyncio.Task[Room]] = {}
        self._evictions: dict[DocumentId, asyncio.TimerHandle] = {}
        self._discarded: set[Room] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._look = asyncio.Event()

    def __len__(self) -> int:
        return len(self._rooms)

    def room(self, document_id: DocumentId) -> Room | None:
        """Return the room of a document if it is live."""
        return self._rooms.get(document_id)

    async def open(self, document_id: DocumentId) -> Room:
        """Return the live room of a document, loading it if need be.

        It stays at least for the idle grace. Raises DocumentNotFound, StorageUnavailable, TimeoutError, WorkerFailed.
        """
        room = self._rooms.get(document_id)
        if room is None:
            loading = self._loading.get(document_id)
            if loading is None:
                loading = self._services.loop.create_task(self._load(document_id), name="load a room")
                self._loading[document_id] = loading
                loading.add_done_callback(lambda done: self._loaded(document_id, done))
            # A caller that goes away must not take the load from the others.
            room = await asyncio.shield(loading)
        if not room.connections:
            self.emptied(room)
        return room

    def _loaded(self, document_id: DocumentId, loading: asyncio.Task[Room]) -> None:
        del self._loading[document_id]
        if not loading.cancelled():
            loading.exception()  # seen, even if everyone who waited has gone

    async def _load(self, document_id: DocumentId) -> Room:
        ROOMS.labels("loading").inc()
        ROOMS_LOADED.inc()
        bus, listener = self._services.bus, _Listener()
        try:
            async with asyncio.timeout(self._services.limits.load_timeout):
                # Before the load, so that no commit falls between the two. With the bus away the look at the heads tells.
                await bus.subscribe(document_id, listener, self._services.limits.subscribe_timeout)
                stored = await self._stored.load(document_id)
                if stored is None:
                    raise DocumentNotFound(str(document_id))
                history = await self._history(stored)
        except BaseException:
            bus.unsubscribe(document_id)
            raise
        finally:
            ROOMS.labels("loading").dec()
        room = Room(document_id, history, stored.head, self._services, self)
        self._rooms[document_id] = room
        listener.pass_on_to(room)
        room.opened()
        ROOMS.labels("live").inc()
        self.emptied(room)  # should nobody come who waited for it
        return room

    async def _history(self, stored: StoredDocument) -> History:
        history, limits = History(), self._services.limits
        summaries = [piece for segment in stored.segments for piece in decode_pieces(segment.summary)]
        payloads = [update.payload for update in stored.updates]
        is_long = len(payloads) > _LONG_TAIL_UPDATES or sum(map(len, payloads)) > _LONG_TAIL_BYTES
        folded: list[FoldedPiece] = []
        if is_long:
            history.known, folded = await self._services.workers.run(
                replay, summaries, payloads, limits.segment_bytes, timeout=limits.worker_timeout
            )
        updates = [piece for segment in stored.segments for piece in decode_pieces(segment.payload)]
        for update, encoded in zip(updates, summaries, strict=True):
            summary = Summary.decode(encoded)
            if not is_long:
                history.known.add_summary(summary)
            history.load_segment(update, summary.ranges, bool(summary.deletes))
        for piece in folded:
            history.load_segment(piece.update, piece.ranges, piece.has_deletes)
        for payload in [] if is_long else payloads:
            history.append(history.known.close(payload, STORED_LIMITS), origin=0, user_id=None, taken_at=0.0)
        history.mark_saved(history.head)
        return history

    def join(self, room: Room, member: Member, socket: Socket, on_end: Callable[[], None]) -> Connection:
        """Let a client into a room that `open` gave. If that has gone meanwhile, the client is sent to the one that comes next."""
        if self._rooms.get(room.document_id) is room:
            eviction = self._evictions.pop(room.document_id, None)
            if eviction is not None:
                eviction.cancel()
            room.is_leaving = False
        return room.join(member, socket, on_end)

    # ------------------------------------------------------------------ from rooms

    def emptied(self, room: Room) -> None:
        """Let an empty room go after the idle grace, if it is clean by then."""
        if self._rooms.get(room.document_id) is not room:
            return
        room.emptied_at = room.now()
        room.is_leaving = False
        self._evict_in(room, self._services.limits.idle_grace)

    def _evict_in(self, room: Room, delay: float) -> None:
        previous = self._evictions.pop(room.document_id, None)
        if previous is not None:
            previous.cancel()
        self._evictions[room.document_id] = self._services.loop.call_later(delay, self._evict, room)

    def discarded(self, room: Room) -> None:
        """A room gave itself up: the next who comes loads the document afresh."""
        self._forget(room)
        self._discarded.add(room)
        self._own("end a discarded room", self._bury, room)

    async def _bury(self, room: Room) -> None:
        await room.settled()
        self._discarded.discard(room)

    def _evict(self, room: Room) -> None:
        eviction = self._evictions.pop(room.document_id, None)
        if eviction is not None:
            eviction.cancel()
        if room.connections or self._rooms.get(room.document_id) is not room:
            return
        if not room.is_clean:
            self.emptied(room)
            return
        if room.looked_at <= room.emptied_at:
            # The log may just have gone back: what only this room still holds is offered again first (R9).
            room.is_leaving = True
            self._look.set()
            self._evict_in(room, self._services.limits.head_look)
            return
        self._forget(room)
        room.retire()
        if not self._is_draining:
            self._own("compact after closing", self._compactor.compact_if_worth, room.document_id)

    def _forget(self, room: Room) -> None:
        if self._rooms.get(room.document_id) is room:
            del self._rooms[room.document_id]
            self._services.bus.unsubscribe(room.document_id)
            ROOMS.labels("live").dec()
        eviction = self._evictions.pop(room.document_id, None)
        if eviction is not None:
            eviction.cancel()

    # ------------------------------------------------------------------ the instance's life

    async def run(self) -> None:
        """Sweep the rooms for ever: keepalives, expired presence, late answers, the log's growth."""
        interval = self._services.limits.keepalive / SWEEPS_PER_KEEPALIVE
        while True:
            await asyncio.sleep(interval)
            behind = 0
            for room in list(self._rooms.values()):
                room.sweep()
                behind += sum(connection.is_congested for connection in room.connections)
                if room.updates_since_compaction >= self._compactor.limits.updates_while_open:
                    room.updates_since_compaction = 0
                    self._own("compact while open", self._compactor.compact_if_worth, room.document_id)
            CONNECTIONS_BEHIND.set(behind)

    def look_soon(self) -> None:
        """The bus may have lost messages: look at the heads of the logs before the next turn."""
        self._look.set()

    async def follow_heads(self) -> None:
        """Look at the heads of all open rooms' logs for ever: there shows what the bus lost (R6), and what went back (R9)."""
        limits, randomness = self._services.limits, self._services.randomness
        while True:
            try:
                async with asyncio.timeout(limits.head_look):
                    await self._look.wait()
            except TimeoutError:
                pass
            # When a bus comes back, every instance is told so at once.
            await asyncio.sleep(limits.hole_grace * randomness.uniform(1.0, 2.0))
            self._look.clear()
            try:
                await self._look_at_heads()
            except (StorageError, TimeoutError) as error:
                _log.warning("heads_not_seen", error=repr(error))

    async def _look_at_heads(self) -> None:
        """One look; compared with what was known before it, since logs go on while they are looked at."""
        begun, before = self._services.loop.time(), {room: room.log_head for room in self._rooms.values()}
        if not before:
            return
        async with asyncio.timeout(self._services.limits.load_timeout):
            heads = await self._stored.heads([room.document_id for room in before])
        for room, known in before.items():
            head = heads.get(room.document_id)
            if self._rooms.get(room.document_id) is not room:
                continue
            if head is None:
                room.document_is_gone()
            else:
                room.looked_at = begun
                room.head_seen(head, known)
                if room.is_leaving:
                    self._evict(room)

    async def drain(self, time_limit: float) -> None:
        """Have everything saved and end what the rooms still do. Raises nothing: what cannot be saved in time is logged."""
        self._is_draining = True
        try:
            async with asyncio.timeout(time_limit):
                await self._all_saved()
                self._send_away()
                await self._all_saved()
        except TimeoutError:
            _log.error("not_all_saved", unsaved_bytes=self._services.log_writer.unsaved_bytes)
        self._send_away()
        for room in [*self._rooms.values(), *self._discarded]:
            await room.stop()
        for eviction in self._evictions.values():
            eviction.cancel()
        for task in [*self._tasks, *self._loading.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._loading.values(), return_exceptions=True)

    async def _all_saved(self) -> None:
        """Wait until what is being read is taken, what is refused is kept, and what is taken is saved."""
        for room in [*self._rooms.values(), *self._discarded]:
            await room.settled()
        await self._services.log_writer.flushed()

    def _send_away(self) -> None:
        for room in self._rooms.values():
            for connection in room.connections:
                connection.close(RESTART, "the instance is stopping")

    def _own(
        self, name: str, work: Callable[P, Coroutine[Any, Any, object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        task = self._services.loop.create_task(self._guard(work, *args, **kwargs), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Callable[P, Coroutine[Any, Any, object]], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await work(*args, **kwargs)
        except Exception:
            _log.exception("upkeep_failed")
