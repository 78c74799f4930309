"""One open document on this instance: takes updates, relays them, has them saved, answers those who ask.

A room is the only writer of its history (R3), and everything that reads and then acts on it happens in one step of the loop,
without an `await` in between. The work of one tick is relayed in one flush: every connection at the head gets one write of bytes
that were framed once.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol

from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import (
    LIMIT_REACHED,
    RELAY_DELAY,
    TIME_TO_RECEIPT,
    UPDATES_CUT,
    UPDATES_EMPTY,
    UPDATES_REFUSED,
    UPDATES_TAKEN,
    get_logger,
)
from constructure_sync.protocol.closed_part import nothing
from constructure_sync.protocol.closes import (
    BY_CODE,
    DELETED,
    FORBIDDEN,
    INTERNAL_ERROR,
    OVERLOADED,
    RESTART,
    TOO_LARGE,
)
from constructure_sync.protocol.framing import frame
from constructure_sync.protocol.known import ClosedPart
from constructure_sync.protocol.messages import awareness_message
from constructure_sync.protocol.state_vector import encode_state_vector
from constructure_sync.replica.jobs import FoldedPiece, close_update, fold
from constructure_sync.replica.pool import WorkerFailed
from constructure_sync.rooms.connection import Connection, Member
from constructure_sync.rooms.history import Entry, History, Piece, covers
from constructure_sync.rooms.payloads import Payloads
from constructure_sync.rooms.presence import ROLL_CALL_SECONDS, Presence
from constructure_sync.rooms.services import RoomServices
from constructure_sync.rooms.socket import Socket
from constructure_sync.rooms.stranding import Stranding
from schemas.ids import CommitId, DocumentId, UserId
from storage.contracts import (
    Append,
    Appended,
    ClientBinding,
    Diverged,
    Gone,
    NewUpdate,
)

P = ParamSpec("P")

_log = get_logger()
_READ_ONLY = "your role does not allow changes"


class RoomOwner(Protocol):
    """The registry, as its rooms see it."""

    def emptied(self, room: "Room") -> None:
        """The last connection has left."""

    def discarded(self, room: "Room") -> None:
        """The room cannot go on: whoever comes next loads the document afresh."""


class Room:
    """See the module. Connections call `take`, `leave` and `presence_changed`; the log writer calls `saved`."""

    def __init__(
        self, document_id: DocumentId, history: History, commit: CommitId, services: RoomServices, owner: RoomOwner
    ) -> None:
        self.document_id = document_id
        self.history = history
        self.limits = services.limits
        self.loop = services.loop
        self.presence = Presence(services.limits)
        self.connections: list[Connection] = []
        self.is_discarded = False
        self._services = services
        self._owner = owner
        self._commit = commit
        self._with_receipts: list[Connection] = []
        self._next_number = 0
        self._flushed = history.head
        self._flush_is_due = False
        self._deferral: asyncio.TimerHandle | None = None
        self._roll_call: asyncio.TimerHandle | None = None
        self._adds_nothing = Payloads()
        self._bindings: dict[int, ClientBinding] = {}
        self._known_bindings: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_folding = False
        self.updates_since_compaction = 0
        self._stranding = Stranding(document_id, services.stranded, services.workers, services.limits)

    def now(self) -> float:
        return self.loop.time()

    @property
    def is_clean(self) -> bool:
        """Whether nothing is unsaved and nothing is being read, so that the room may go."""
        return self.history.saved == self.history.head and not self._tasks

    def state_vector(self) -> bytes:
        """Return what the room has, encoded for a SyncStep1."""
        return encode_state_vector(self.history.known.clocks)

    # ------------------------------------------------------------------ coming and going

    def join(self, member: Member, socket: Socket, on_end: Callable[[], None]) -> Connection:
        """Let a client in: it is asked for what it has and told who is here. Its history begins with its own question (R5)."""
        self._next_number += 1
        connection = Connection(self, self._next_number, member, socket, on_end)
        self.connections = [*self.connections, connection]
        if connection.receipts is not None:
            self._with_receipts.append(connection)
        if self.is_discarded:
            connection.close(RESTART, "the document is being loaded again")
            return connection
        connection.ask()
        connection.tell_presence()
        return connection

    def leave(self, connection: Connection) -> None:
        """The socket of this connection is gone."""
        self.connections = [other for other in self.connections if other is not connection]
        if connection.receipts is not None:
            self._with_receipts.remove(connection)
        self.presence.leave(connection.attendee, self.now())
        self.presence_changed()
        if not self.connections:
            self._owner.emptied(self)

    # ------------------------------------------------------------------ taking updates

    def take(self, connection: Connection, update: bytes, is_answer: bool) -> None:
        """Take the closed part of an update. Raises ProtocolViolation."""
        if update in self._adds_nothing:
            UPDATES_EMPTY.inc()
            connection.note_write(is_answer=is_answer, missing=())
            return
        self._accept(connection, update, self.history.known.close(update), is_answer)

    def take_in_worker(self, connection: Connection, update: bytes, is_answer: bool) -> None:
        """Take a large update: it is read in a worker process while the loop serves others and this socket is paused."""
        if update in self._adds_nothing:
            UPDATES_EMPTY.inc()
            connection.note_write(is_answer=is_answer, missing=())
            self.loop.call_soon(connection.read_on)
        elif self._services.budget.take(len(update)):
            self._own("read a large update", self._read_large, connection, update, is_answer)
        else:
            LIMIT_REACHED.labels("in_flight_bytes").inc()
            connection.close(OVERLOADED, "too many large updates at once")

    async def _read_large(self, connection: Connection, update: bytes, is_answer: bool) -> None:
        try:
            # What the room learns meanwhile only makes more of the update known: what is closed stays closed.
            known = self.history.known.copy()
            part = await self._services.workers.run(close_update, known, update, timeout=self.limits.worker_timeout)
            if not self.is_discarded:
                self._accept(connection, update, self._unless_known(part), is_answer)
        except ProtocolViolation as violation:
            UPDATES_REFUSED.labels("violation").inc()
            connection.close(violation.code, violation.reason)
        except WorkerFailed:
            connection.close(INTERNAL_ERROR, "the update could not be read")
        finally:
            self._services.budget.give_back(len(update))
        connection.read_on()

    def _unless_known(self, part: ClosedPart) -> ClosedPart:
        """Return the part, or an empty one where others have brought all of it while it was being read."""
        known = self.history.known
        is_new = not covers(known.clocks, part.ranges) or not all(known.deletes.covers(*each) for each in part.deletes)
        return part if is_new else nothing(part.missing)

    def _accept(self, connection: Connection, update: bytes, part: ClosedPart, is_answer: bool) -> None:
        if connection.is_refused:
            if part.adds_structs or part.missing:
                self._refuse(connection, update, part, FORBIDDEN, "")
            return
        if not connection.member.can_write:
            self._refuse_reader(connection, update, part, is_answer)
            return
        if part.is_empty:
            UPDATES_EMPTY.inc()
            if not part.missing:
                self._adds_nothing.add(update)
        elif self._services.log_writer.is_full:
            LIMIT_REACHED.labels("unsaved_bytes").inc()
            connection.close(OVERLOADED, "the database is away: nothing more can be taken for now")
            return
        elif self.history.size + len(part.update) > self.limits.max_document_bytes:
            LIMIT_REACHED.labels("max_document_bytes").inc()
            self._refuse(connection, update, part, TOO_LARGE, "the document would be too large")
            return
        else:
            self._append(connection, part, is_answer)
        if part.missing:
            UPDATES_CUT.inc()
        connection.note_write(is_answer=is_answer, missing=part.missing)

    def _append(self, connection: Connection, part: ClosedPart, is_answer: bool) -> None:
        history = self.history
        history.append(part, connection.number, connection.member.user_id, self.now())
        UPDATES_TAKEN.inc()
        if not is_answer and connection.attendee.ids:
            self._bind(connection, part)
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)
        self._services.log_writer.wake(self, len(part.update))

    def _bind(self, connection: Connection, part: ClosedPart) -> None:
        """An id belongs to whoever continues it by a live update on a socket whose presence carries it (R15)."""
        for client, _, _ in part.ranges:
            if client in connection.attendee.ids and client not in self._known_bindings:
                self._known_bindings.add(client)
                self._bindings[client] = ClientBinding(client, connection.member.user_id)

    # ------------------------------------------------------------------ refusing

    def _refuse_reader(self, connection: Connection, update: bytes, part: ClosedPart, is_answer: bool) -> None:
        """A reader's deletes are its client's own doing and are dropped silently (R12); its structs are a write (R10).

        What a reader's SyncStep2 only holds as pending is not a write of its own: nobody can take it. What it holds beyond that may
        be an author's who was relayed and not saved when the server went down: the author is given a moment to come back first.
        """
        if is_answer and part.adds_structs and self.limits.conveyed_grace:
            connection.hold()
            self._own("keep what may be conveyed", self._keep_conveyed, connection, min(_clients(part)), update)
        elif part.adds_structs or (part.missing and not is_answer):
            UPDATES_REFUSED.labels("role").inc()
            self._refuse(connection, update, part, FORBIDDEN, _READ_ONLY)
        else:
            UPDATES_EMPTY.inc()
            connection.note_write(is_answer=is_answer, missing=())

    def _refuse(self, connection: Connection, update: bytes, part: ClosedPart, code: int, reason: str) -> None:
        """Take nothing more from this connection, keep what it wrote, and only then tell it so (R10)."""
        connection.is_refused = True
        connection.hold()
        self._own("keep a stranded change", self._keep_refused, connection, min(_clients(part)), update, code, reason)

    async def _keep_conveyed(self, connection: Connection, client_id: int, update: bytes) -> None:
        """Keep a reader's SyncStep2 at once; judge it when its authors have had their time."""
        if await self._stranding.keep(connection.member.user_id, client_id, [update], BY_CODE[FORBIDDEN].name):
            if connection.conveyed is None:
                self.loop.call_later(self.limits.conveyed_grace, self._judge_conveyed, connection)
            connection.note_conveyed(update)
            connection.read_on()
        else:
            connection.close(OVERLOADED, "what is refused cannot be kept for now")

    def _judge_conveyed(self, connection: Connection) -> None:
        """Everything that this reader brought is known by now, or it wrote itself."""
        update, connection.conveyed = connection.conveyed, None
        if update is None or self.is_discarded or connection.has_ended:
            return
        try:
            adds_structs = self.history.known.close(update).adds_structs
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

    def _strand_unsaved(self, code: int) -> None:
        """Keep what was taken and will not be saved, also from those who have left since (R10)."""
        by_user: dict[UserId, list[Entry]] = {}
        for entry in self.history.unsaved():
            if entry.user_id is not None:
                by_user.setdefault(entry.user_id, []).append(entry)
        for user_id, entries in by_user.items():
            client_id = min([client for entry in entries for client, _, _ in entry.ranges] or [0])
            updates = [entry.update for entry in entries]
            self._own("keep unsaved updates", self._stranding.keep, user_id, client_id, updates, BY_CODE[code].name)

    # ------------------------------------------------------------------ relaying

    def presence_changed(self) -> None:
        """Presence has taken something: tell everyone in this tick's flush, or later what is over its connection's rate."""
        if self.presence.has_changes and not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)
        if self.presence.has_deferred and self._deferral is None:
            self._deferral = self.loop.call_later(1 / self.limits.awareness_per_second, self._release_presence)
        if self.presence.call_roll(self.now()):
            for connection in self.connections:
                connection.ask_presence()
        elif self.presence.roll_call_waits and self._roll_call is None:
            self._roll_call = self.loop.call_later(ROLL_CALL_SECONDS, self._call_roll)

    def _call_roll(self) -> None:
        self._roll_call = None
        self.presence_changed()

    def _release_presence(self) -> None:
        self._deferral = None
        self.presence.release_deferred()
        self.presence_changed()

    def _flush(self) -> None:
        """Relay what this tick has brought: framed once, one write for each connection at the head (design §3 step 4)."""
        self._flush_is_due = False
        if self._flushed < self.history.head:
            self._flush_updates()
        payloads = self.presence.take_changes()
        if payloads:
            frames = b"".join([frame(awareness_message(payload)) for payload in payloads])
            for connection in self.connections:
                connection.presence_frames(frames)

    def _flush_updates(self) -> None:
        history, start = self.history, self._flushed
        entries = history.tail[start - history.tail_start :]
        self._flushed = head = history.head
        everything = entries[0].framed if len(entries) == 1 else b"".join([entry.framed for entry in entries])
        origins = {entry.origin for entry in entries}
        for connection in self.connections:
            if connection.position != start or connection.is_congested:
                connection.catch_up()
                continue
            connection.position = head
            if connection.number not in origins:
                connection.socket.write(everything)
            elif len(origins) > 1:
                connection.socket.write(b"".join([e.framed for e in entries if e.origin != connection.number]))
        RELAY_DELAY.observe(self.now() - entries[0].taken_at)

    # ------------------------------------------------------------------ saving

    def next_append(self, max_updates: int, max_bytes: int) -> Append | None:
        """Return the oldest unsaved updates for the next commit (see `Journal`)."""
        updates: list[NewUpdate] = []
        for entry in self.history.unsaved():
            update = entry.update
            max_bytes -= len(update)
            if updates and (max_bytes < 0 or len(updates) >= max_updates):
                break
            updates.append(NewUpdate(update, entry.user_id))
        if not updates:
            return None
        bindings, self._bindings = list(self._bindings.values()), {}
        commit = CommitId(self._services.randomness.getrandbits(63) or 1)
        return Append(self.document_id, self._commit, commit, updates, bindings)

    def saved(self, append: Append, result: Appended) -> None:
        """These updates are on disk: give the receipts that waited for them (design §3 step 6)."""
        history = self.history
        if self.is_discarded:
            return
        TIME_TO_RECEIPT.observe(self.now() - history.tail[history.saved - history.tail_start].taken_at)
        history.mark_saved(len(append.updates), result.last)
        self._commit = append.commit
        self.updates_since_compaction += len(append.updates)
        for connection in self._with_receipts:
            if connection.receipts is not None:
                number = connection.receipts.saved(history.saved)
                if number:
                    connection.send_receipt(number)
        if history.saved < history.head:
            self._services.log_writer.wake(self, 0)
        self._services.on_saved(self.document_id)
        self._fold_if_due()
        if not self.connections:
            self._owner.emptied(self)

    def cannot_save(self, append: Append, result: Diverged | Gone) -> None:
        """The store will never take this: what others hold of it must not be built upon (R10)."""
        _log.error("save_refused", document=str(self.document_id), outcome=type(result).__name__)
        if isinstance(result, Gone):
            self.discard(DELETED, "the document was deleted")
        else:
            self.discard(RESTART, "the document is being loaded again")

    def discard(self, code: int, reason: str) -> None:
        """Give the room up: strand what is unsaved and send everyone away."""
        if self.is_discarded:
            return
        self.is_discarded = True
        self._services.log_writer.forget(self)
        self._strand_unsaved(code)
        for connection in self.connections:
            connection.close(code, reason)
        self._owner.discarded(self)

    def retire(self) -> None:
        """The room was clean and empty and is no longer there: who was about to join is sent to the one that comes next."""
        self.is_discarded = True

    # ------------------------------------------------------------------ upkeep

    def _fold_if_due(self) -> None:
        if self._is_folding:
            return
        entries = self.history.foldable(self.limits.segment_bytes, self.limits.fold_entries)
        if entries:
            self._is_folding = True
            self._own("fold the tail", self._fold, entries)

    async def _fold(self, entries: int) -> None:
        """Merge the saved beginning of the tail into segments, together with a last segment that is still small."""
        history = self.history
        try:
            segments = history.segments
            is_last_small = bool(segments) and len(segments[-1].framed) < self.limits.segment_bytes // 2
            first_replaced = len(segments) - 1 if is_last_small else len(segments)
            pieces: list[Piece] = [*segments[first_replaced:], *history.tail[:entries]]
            merged = await self._services.workers.run(
                fold,
                [piece.update for piece in pieces],
                self.limits.segment_bytes,
                timeout=self.limits.worker_timeout,
            )
            self._put_fold(first_replaced, entries, merged)
        except WorkerFailed as error:
            # The tail stays as it is: larger than it need be, and right.
            _log.error("fold_failed", document=str(self.document_id), error=repr(error))
        finally:
            self._is_folding = False

    def _put_fold(self, first_replaced: int, entries: int, merged: list[FoldedPiece]) -> None:
        folded = self.history.fold(first_replaced, entries, merged)
        for connection in self.connections:
            connection.position = self.history.moved(connection.position, folded)

    def sweep(self) -> None:
        """Called a few times per keepalive interval by the registry: keepalives, expired presence, questions that waited."""
        now = self.now()
        self.presence.expire(now)
        self.presence_changed()
        for connection in self.connections:
            connection.sweep(now)

    def _own(
        self, name: str, work: Callable[P, Coroutine[Any, Any, object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        task = self.loop.create_task(self._guard(name, work, *args, **kwargs), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(
        self, name: str, work: Callable[P, Coroutine[Any, Any, object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """A fault in a room's own work discards that room, which is loaded again from the log; the others never notice."""
        try:
            await work(*args, **kwargs)
        except Exception:
            _log.exception("room_failed", document=str(self.document_id), work=name)
            self.discard(INTERNAL_ERROR, "the document is being loaded again")

    async def settled(self) -> None:
        """Wait until the room's own tasks have ended."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """End the room's own tasks."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in (self._deferral, self._roll_call):
            if timer is not None:
                timer.cancel()


def _clients(part: ClosedPart) -> list[int]:
    """Return the client ids whose structs a part holds, or else lacks."""
    return [client for client, _, _ in part.ranges] or [client for client, _ in part.missing] or [0]
