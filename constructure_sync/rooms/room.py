"""One open document on this instance: takes updates, relays them, has them saved, answers those who ask.

A room is the only writer of its history (R3), and everything that reads and then acts on it happens in one step of the loop,
without an `await` in between. The work of one tick is relayed in one flush: every connection at the head gets one write of bytes
that were framed once.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, Protocol

from constructure_sync.bus.contracts import (
    DocumentMessage,
    InstanceId,
    PresenceAsked,
    PresenceChanged,
    PresenceEntry,
    RollCalled,
    Saved,
)
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
from constructure_sync.replica.jobs import FoldedPiece, close_update, fold
from constructure_sync.replica.pool import WorkerFailed
from constructure_sync.rooms.connection import Connection, Member
from constructure_sync.rooms.follower import Follower
from constructure_sync.rooms.history import Entry, History, Piece, covers
from constructure_sync.rooms.outbox import Outbox
from constructure_sync.rooms.payloads import Payloads
from constructure_sync.rooms.presence import ROLL_CALL_SECONDS, Presence
from constructure_sync.rooms.refusals import Refusals
from constructure_sync.rooms.services import RoomServices
from constructure_sync.rooms.socket import Socket
from schemas.ids import CommitId, DocumentId, Seq, UserId
from storage.contracts import (
    Append,
    Appended,
    ClientBinding,
    Diverged,
    Gone,
    Head,
    NewUpdate,
)

P = ParamSpec("P")

_log = get_logger()


class RoomOwner(Protocol):
    """The registry, as its rooms see it."""

    def emptied(self, room: "Room") -> None:
        """The last connection has left."""

    def discarded(self, room: "Room") -> None:
        """The room cannot go on: whoever comes next loads the document afresh."""

    def look_soon(self) -> None:
        """The bus may have lost something: the heads of the logs are to be looked at."""


class Room:
    """See the module. Connections call `take`, `leave` and `presence_changed`; the log writer calls `saved`."""

    def __init__(
        self, document_id: DocumentId, history: History, head: Head, services: RoomServices, owner: RoomOwner
    ) -> None:
        self.document_id = document_id
        self.history = history
        self.limits = services.limits
        self.loop = services.loop
        self.presence = Presence(services.limits, services.bus.instance)
        self.connections: list[Connection] = []
        self.is_discarded = False
        self._services = services
        self._owner = owner
        self._follower = Follower(self, head, services)
        self._outbox = Outbox()
        self._in_flight: Append | None = None
        self._with_receipts: list[Connection] = []
        self._next_number = 0
        self._flushed = history.head
        self._flush_is_due = False
        self._taken = 0  # updates since the last flush
        self._deferral: asyncio.TimerHandle | None = None
        self._roll_call: asyncio.TimerHandle | None = None
        self._adds_nothing = Payloads()
        self._bindings: dict[int, ClientBinding] = {}
        self._known_bindings: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_folding = False
        self.updates_since_compaction = 0
        self.emptied_at = 0.0
        self.is_leaving = False  # as soon as its log was looked at once more
        self.looked_at = -1.0  # when the last look at the log's head began that succeeded
        self._refusals = Refusals(self, services)

    def now(self) -> float:
        return self.loop.time()

    @property
    def is_clean(self) -> bool:
        """Whether nothing is unsaved and nothing is being read, so that the room may go."""
        return not self._outbox and not self._tasks

    @property
    def saved_to(self) -> int:
        """The position before which everything is saved; while the room heals, nothing is known to be."""
        if self._follower.is_healing:
            return self.history.first
        return self._outbox.saved_to(self.history.head)

    @property
    def log_seq(self) -> Seq:
        """The newest Seq that the room knows of."""
        return self._follower.place.newest.seq

    @property
    def log_head(self) -> Head:
        """The newest place in the log that the room knows of."""
        return self._follower.place.newest

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

    def take(self, connection: Connection, update: bytes, *, is_answer: bool) -> None:
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
            self.own("read a large update", self._read_large, connection, update, is_answer)
        else:
            LIMIT_REACHED.labels("in_flight_bytes").inc()
            connection.close(OVERLOADED, "too many large updates at once")

    async def _read_large(self, connection: Connection, update: bytes, is_answer: bool) -> None:
        try:
            # What the room learns meanwhile only makes more of the update known: what is closed stays closed.
            known = self.history.known.copy()
            part = await self._services.workers.run(close_update, known, update, timeout=self.limits.worker_timeout)
            if not self.is_discarded:
                self._accept(connection, update, self.unless_known(part), is_answer)
        except ProtocolViolation as violation:
            UPDATES_REFUSED.labels("violation").inc()
            connection.close(violation.code, violation.reason)
        except WorkerFailed:
            connection.close(INTERNAL_ERROR, "the update could not be read")
        finally:
            self._services.budget.give_back(len(update))
        connection.read_on()

    def unless_known(self, part: ClosedPart) -> ClosedPart:
        """Return the part, or an empty one where others have brought all of it while it was being read."""
        known = self.history.known
        is_new = not covers(known.clocks, part.ranges) or not all(known.deletes.covers(*each) for each in part.deletes)
        return part if is_new else nothing(part.missing)

    def _accept(self, connection: Connection, update: bytes, part: ClosedPart, is_answer: bool) -> None:
        if connection.is_refused:
            if part.adds_structs or part.missing:
                self._refusals.refuse(connection, update, part, FORBIDDEN, "")
            return
        if not connection.member.can_write:
            self._refusals.refuse_reader(connection, update, part, is_answer)
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
            self._refusals.refuse(connection, update, part, TOO_LARGE, "the document would be too large")
            return
        else:
            self._append(connection, part, is_answer)
            if not is_answer and not part.missing:
                connection.note_taken(self.history.head)
                return
        if part.missing:
            UPDATES_CUT.inc()
        connection.note_write(is_answer=is_answer, missing=part.missing)

    def _append(self, connection: Connection, part: ClosedPart, is_answer: bool) -> None:
        position = self.history.head
        entry = self.history.append(part, connection.number, connection.member.user_id, self.loop.time())
        self._outbox.add(position, entry)
        self._taken += 1
        if not is_answer and connection.attendee.ids:
            self._bind(connection, part)
        self._flush_soon()
        self._services.log_writer.wake(self, len(part.update))

    def take_saved(self, part: ClosedPart) -> None:
        """Take and relay what another instance has saved."""
        if not part.is_empty:
            self.history.append(part, origin=0, user_id=None, taken_at=self.now())
            self.history.mark_saved(self.saved_to)
            self._flush_soon()
            self._fold_if_due()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)

    def _bind(self, connection: Connection, part: ClosedPart) -> None:
        """An id belongs to whoever continues it by a live update on a socket whose presence carries it (R15)."""
        for client, _, _ in part.ranges:
            if client in connection.attendee.ids and client not in self._known_bindings:
                self._known_bindings.add(client)
                self._bindings[client] = ClientBinding(client, connection.member.user_id)

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
        if self.presence.take_roll_call():
            self._services.bus.publish(self.document_id, RollCalled())

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
        UPDATES_TAKEN.inc(self._taken)
        self._taken = 0
        if self._flushed < self.history.head:
            self._flush_updates()
        payloads = self.presence.take_changes()
        if payloads:
            frames = b"".join([frame(awareness_message(payload)) for payload in payloads])
            for connection in self.connections:
                connection.presence_frames(frames)
        self._announce(self.presence.take_announcements())

    def _announce(self, entries: Sequence[PresenceEntry]) -> None:
        if entries:
            self._services.bus.publish(self.document_id, PresenceChanged(entries))

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
            else:
                connection.pass_own(start)
        RELAY_DELAY.observe(self.now() - entries[0].taken_at)

    # ------------------------------------------------------------------ saving

    def next_append(self, max_updates: int, max_bytes: int) -> Append | None:
        """Return the oldest unsaved updates for the next commit (see `Journal`); None also while the room heals."""
        if self._follower.is_healing:
            return None
        entries = self._outbox.first(max_updates, max_bytes)
        if not entries:
            return None
        updates = [NewUpdate(entry.update, entry.user_id) for entry in entries]
        bindings, self._bindings = list(self._bindings.values()), {}
        commit = CommitId(self._services.randomness.getrandbits(63) or 1)
        self._in_flight = Append(self.document_id, self.log_head, commit, updates, bindings)
        return self._in_flight

    def saved(self, append: Append, result: Appended) -> None:
        """These updates are on disk: give the receipts that waited for them, and tell the other instances (design §3 step 6)."""
        self._publish(append, result)
        if self.is_discarded:
            return
        if append is self._in_flight:
            self._in_flight = None
            TIME_TO_RECEIPT.observe(self.now() - self._outbox.oldest.taken_at)
            self._outbox.drop(len(append.updates))
            self.updates_since_compaction += len(append.updates)
            self._give_receipts()
        self._follower.own(result, append.commit)
        if self._outbox:
            self._services.log_writer.wake(self, 0)
        self._fold_if_due()
        if not self.connections:
            self._owner.emptied(self)

    def _publish(self, append: Append, result: Appended) -> None:
        updates = tuple([update.payload for update in append.updates])
        saved = Saved(result.first, result.last, append.commit, result.previous, updates)
        self._services.bus.publish(self.document_id, saved)
        self._services.on_saved(self.document_id, result.first, updates)

    def _give_receipts(self) -> None:
        position = self.saved_to
        self.history.mark_saved(position)
        for connection in self._with_receipts:
            receipts = connection.receipts
            if receipts is not None and receipts.due:
                number = receipts.saved(position)
                if number:
                    connection.send_receipt(number)

    def cannot_save(self, append: Append, result: Diverged | Gone) -> None:
        """The log is another one now, and is offered everything again (R9); or the document is gone (R10)."""
        if isinstance(result, Gone):
            self.document_is_gone()
        elif append is self._in_flight:
            self._take_back(append)
            self._follower.heal()

    def _take_back(self, append: Append | None) -> None:
        """An append does not count any more: its updates wait in the outbox, its bindings for the next one."""
        self._in_flight = None
        if append is not None:
            self._bindings = {binding.client_id: binding for binding in append.bindings} | self._bindings

    def doubt_what_is_saved(self) -> None:
        """Nothing is known to be saved for now: receipts that are due, and were not told yet, wait until it is again."""
        for connection in self._with_receipts:
            connection.withdraw_receipt(self.history.head)

    def failed(self, error: Exception) -> None:
        """What became of a save could not be accounted for (see `Journal`)."""
        _log.error("room_failed", document=str(self.document_id), work="save", error=repr(error))
        self.discard(INTERNAL_ERROR, "the document is being loaded again")

    def document_is_gone(self) -> None:
        """The store will never take anything of this document again."""
        _log.error("document_gone", document=str(self.document_id))
        self.discard(DELETED, "the document was deleted")

    def offer_again(self, mark: int, offers: list[tuple[int, Piece, ClosedPart]]) -> None:
        """Have saved what a log lacks of the history, with what is unsaved anyway, and ask every client what it has (R9).

        mark: the head when the log was looked at; what came later waits as it did. offers: position, piece, and the part of it.
        """
        # All at the place of the first: deletes that a piece implies are offered last, and are no more saved before than it is.
        first = min((position for position, _, _ in offers), default=mark)
        again = [
            (first, Entry(part.update, part.ranges, bool(part.deletes), 0, _user_of(piece), self.now()))
            for _, piece, part in offers
        ]
        self._take_back(self._in_flight)
        self._outbox.replace([*again, *self._outbox.from_position(mark)])
        self._services.log_writer.restate(self, self._outbox.size)
        self._services.log_writer.wake(self, 0)
        self._give_receipts()
        for connection in self.connections:
            connection.ask()

    def discard(self, code: int, reason: str) -> None:
        """Give the room up: strand what is unsaved and send everyone away."""
        if self.is_discarded:
            return
        self.is_discarded = True
        self._services.log_writer.forget(self)
        self._follower.stop()
        self._refusals.strand_unsaved(self._outbox.entries, code)
        for connection in self.connections:
            connection.close(code, reason)
        self._owner.discarded(self)

    def retire(self) -> None:
        """The room was clean and empty and is no longer there: who was about to join is sent to the one that comes next."""
        self.is_discarded = True
        self._follower.stop()

    # ------------------------------------------------------------------ other instances

    def heard(self, instance: InstanceId, message: DocumentMessage) -> None:
        """Another instance says something of this document (see `Subscriber`)."""
        if self.is_discarded:
            return
        if isinstance(message, Saved):
            self._follower.heard(message)
        elif isinstance(message, PresenceAsked):
            self._announce(self.presence.own_announcements())
        else:
            if isinstance(message, PresenceChanged):
                self.presence.take_elsewhere(instance, message.entries, self.now())
            else:
                self.presence.must_call_roll(self.now())
            self.presence_changed()

    def opened(self) -> None:
        """The room can be heard from now on: ask who is in the document elsewhere."""
        self._services.bus.publish(self.document_id, PresenceAsked())

    def missed(self) -> None:
        """Messages may have been lost (see `Subscriber`): read what others saved, and say again who is here, as they will."""
        self._owner.look_soon()
        self._announce(self.presence.own_announcements())

    def head_seen(self, head: Head, before: Head) -> None:
        """The log's head was looked at; `before`: what `log_head` was when the look began."""
        if not self.is_discarded:
            self._follower.seen(head, before)

    # ------------------------------------------------------------------ upkeep

    def _fold_if_due(self) -> None:
        if self._is_folding or self._follower.is_healing:
            return
        entries = self.history.foldable(self.limits.segment_bytes, self.limits.fold_entries)
        if entries:
            self._is_folding = True
            self.own("fold the tail", self._fold, entries)

    async def _fold(self, entries: int) -> None:
        """Merge the saved beginning of the tail into segments, together with a last segment that is still small."""
        history = self.history
        try:
            segments = history.segments
            is_last_small = bool(segments) and len(segments[-1].framed) < self.limits.segment_bytes // 2
            first_replaced = len(segments) - 1 if is_last_small else len(segments)
            pieces: list[Piece] = [*segments[first_replaced:], *history.tail[:entries]]
            merged = await self._services.background.run(
                fold,
                [piece.update for piece in pieces],
                self.limits.segment_bytes,
                timeout=self.limits.worker_timeout,
            )
            self._put_fold(first_replaced, entries, merged)
        except WorkerFailed as error:
            # The tail stays as it is: larger than it need be, and right.
            _log.error("fold_failed", document=str(self.document_id), error=repr(error))
            return
        finally:
            self._is_folding = False
        self._fold_if_due()  # what was saved meanwhile: perhaps nothing else comes that asks for it

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

    def own(self, name: str, work: Callable[P, Coroutine[Any, Any, object]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run work that belongs to this room: should it fail, the room is discarded and loaded again from the log."""
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
        self._follower.stop()
        for timer in (self._deferral, self._roll_call):
            if timer is not None:
                timer.cancel()


def _user_of(piece: Piece) -> UserId | None:
    return piece.user_id if isinstance(piece, Entry) else None
