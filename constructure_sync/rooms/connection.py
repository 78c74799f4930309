"""One client in a room: a cursor over the room's history, plus a small control box that is never dropped.

Joining, relaying, catching up and being slow are one mechanism at different distances from the head (R4, R5): the cursor stands
where the client's knowledge ends, and moves whenever the socket takes bytes. The control box holds what is not history: the
receipt that is due, our SyncStep1, presence, the close.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import LIMIT_REACHED, UPDATES_REFUSED
from constructure_sync.protocol.closes import BY_CODE, TOO_LARGE, VIOLATION
from constructure_sync.protocol.framing import frame
from constructure_sync.protocol.messages import (
    AWARENESS,
    KEEPALIVE,
    AwarenessUpdate,
    Message,
    QueryAwareness,
    SyncStep1,
    SyncStep2,
    Update,
    awareness_message,
    decode_message,
    permission_denied,
    receipt,
    short_update,
)
from constructure_sync.protocol.state_vector import decode_state_vector
from constructure_sync.rooms.history import EMPTY_STEP2, Piece, Stretch, covers
from constructure_sync.rooms.receipts import Receipts
from constructure_sync.rooms.socket import Socket
from schemas.ids import UserId

if TYPE_CHECKING:
    from constructure_sync.rooms.room import Room

_KEEPALIVE_FRAME: Final = frame(KEEPALIVE)
_BYTES_PER_TURN: Final = 1024 * 1024  # of catching up, before other connections have their turn of the loop
_NOT_ASKED: Final = -(2**62)
_NONE_FRUITLESS: Final[frozenset[tuple[int, int]]] = frozenset()
SWEEPS_PER_KEEPALIVE: Final = 3


@dataclass(frozen=True, slots=True)
class Member:
    """Who is behind a connection and what they may do, as admission found it."""

    user_id: UserId
    user_name: str
    can_write: bool
    wants_receipts: bool = False


class Connection:
    """A client's place in a room. Every method is called on the loop, by transport (socket events) or by the room."""

    __slots__ = (
        "_answered_at",
        "_asked",
        "_asked_again",
        "_fruitless",
        "_holds",
        "_is_told",
        "_must_ask_presence",
        "_must_tell_all",
        "_on_end",
        "_receipt_due",
        "_receipt_told",
        "_silent_sweeps",
        "_state_vector",
        "_swept_position",
        "_withheld",
        "attendee",
        "conveyed",
        "has_ended",
        "is_closing",
        "is_congested",
        "is_refused",
        "member",
        "number",
        "position",
        "receipts",
        "room",
        "socket",
        "spoke",
    )

    def __init__(self, room: "Room", number: int, member: Member, socket: Socket, on_end: Callable[[], None]) -> None:
        self.room = room
        self.number = number
        self.member = member
        self.socket = socket
        self.position = _NOT_ASKED  # no history flows before the client has said what it has
        self.receipts = Receipts() if member.wants_receipts else None
        self.attendee = room.presence.attend(member.user_id, member.user_name, room.now())
        self.is_congested = False
        self.is_refused = False
        self.is_closing = False
        self.has_ended = False
        self.spoke = False
        self._on_end = on_end
        self._state_vector: dict[int, int] | None = None  # while an answer to SyncStep1 is being given
        self._withheld = False  # whether that answer left out pieces with deletes
        self._answered_at = -1e9
        self._asked_again: bytes | None = None
        self._asked = False
        self.conveyed: bytes | None = (
            None  # a reader's answer that may only convey what others wrote, until it is judged
        )
        self._fruitless = _NONE_FRUITLESS
        self._must_tell_all = False
        self._must_ask_presence = False
        self._receipt_due = 0
        self._receipt_told = 0
        self._holds = 0
        self._is_told = False
        self._swept_position = _NOT_ASKED
        self._silent_sweeps = 0

    # ------------------------------------------------------------------ from the socket

    @property
    def max_message_bytes(self) -> int:
        """The largest message this connection may send; over it the socket is closed with 4413."""
        limits = self.room.limits
        if self.member.can_write:
            return limits.max_document_bytes
        # A stock reader's SyncStep2 repeats the document's whole delete set, some bytes for each range (interleavings 12).
        return limits.viewer_frame_bytes + 16 * len(self.room.history.known.deletes)

    def receive(self, message: bytes) -> None:
        """Take one whole binary message. Never raises: what is wrong with it closes this socket alone."""
        if self.is_closing or self.has_ended:
            return
        try:
            update = short_update(message)
            if update is not None:
                self.room.take(self, update, is_answer=False)
            elif not (message.startswith(AWARENESS) and self.room.presence.is_echo(self.attendee, message)):
                self._handle(decode_message(message))
        except ProtocolViolation as violation:
            UPDATES_REFUSED.labels("violation" if violation.code == VIOLATION else "limit").inc()
            self.close(violation.code, violation.reason)

    def congested(self) -> None:
        """The socket does not take more for now: the cursor stays where it is and costs nothing (R4)."""
        self.is_congested = True

    def writable(self) -> None:
        """The socket takes bytes again."""
        self.is_congested = False
        if self._must_tell_all:
            self._must_tell_all = False
            for payload in self.room.presence.everyone_and_gone():
                self._write(frame(awareness_message(payload)))
        if self._must_ask_presence:
            self._must_ask_presence = False
            self.ask_presence()
        if self._receipt_due:
            self.send_receipt(0)
        self.catch_up()

    def ended(self) -> None:
        """The socket is gone."""
        if not self.has_ended:
            self.has_ended = True
            self.room.leave(self)
            self._on_end()

    # ------------------------------------------------------------------ what a message means

    def _handle(self, message: Message) -> None:
        if isinstance(message, (Update, SyncStep2)):
            is_answer = isinstance(message, SyncStep2)
            if len(message.update) > self.room.limits.worker_frame_bytes:
                self.hold()
                self.room.take_in_worker(self, message.update, is_answer)
            else:
                self.room.take(self, message.update, is_answer=is_answer)
        elif isinstance(message, SyncStep1):
            self._answer(message.state_vector)
        elif isinstance(message, AwarenessUpdate):
            self._take_presence(message.payload)
        elif isinstance(message, QueryAwareness):
            self.tell_presence()

    def hold(self) -> None:
        """A message takes longer: read nothing behind it until `read_on` has been called as often."""
        self._holds += 1
        self.socket.pause_reading()

    def read_on(self) -> None:
        """A message that took longer is dealt with: read what came behind it."""
        self._holds -= 1
        if not self._holds and not self.is_closing and not self.has_ended:
            self.socket.resume_reading()

    def _take_presence(self, payload: bytes) -> None:
        if len(payload) > self.room.limits.awareness_frame_bytes:
            LIMIT_REACHED.labels("awareness_frame_bytes").inc()
            raise ProtocolViolation("an awareness message is too large", TOO_LARGE)
        answer = self.room.presence.receive(self.attendee, payload, self.room.now())
        if answer is not None:
            self._tell_presence(awareness_message(answer))
        self.room.presence_changed()

    # ------------------------------------------------------------------ our questions

    def ask(self) -> None:
        """Send our SyncStep1, once: not again while the first is unanswered (interleavings 3)."""
        if not self._asked:
            self._asked = True
            self._write(self.room.history.question())

    def note_write(self, *, is_answer: bool, missing: tuple[tuple[int, int], ...]) -> None:
        """Account for a write message that the room has taken: receipts, and the question that a gap raises.

        A client that answers and still lacks the same cannot give it: it is not asked for that again (interleavings 1).
        """
        head = self.room.history.head
        if is_answer:
            self._asked = False
            self._fruitless = frozenset(missing) if missing else _NONE_FRUITLESS
            if self.receipts is not None and self.conveyed is None:
                self.receipts.close_gaps(head)
        is_gap = bool(missing) and not self._fruitless.issuperset(missing)
        if self.receipts is not None:
            self.receipts.note(head, gap=is_gap)
            self.send_receipt(self.receipts.saved(self.room.saved_to))
        if is_gap:
            self.ask()

    def note_taken(self, head: int) -> None:
        """Account for a live update that was taken whole, up to the new head of the history: nothing more is saved by that."""
        if self.receipts is not None:
            self.receipts.note(head)

    def note_conveyed(self, update: bytes) -> None:
        """Account for a reader's answer that is judged later; of several only the newest, which repeats the older ones.

        Nothing from it on is acknowledged until then.
        """
        self._asked = False
        self.conveyed = update
        if self.receipts is not None:
            self.receipts.note(self.room.history.head, gap=True)

    def conveyed_is_known(self) -> None:
        """Everything that such an answer held is in the history."""
        if self.receipts is not None:
            self.receipts.close_gaps(self.room.history.head)
            self.send_receipt(self.receipts.saved(self.room.saved_to))

    # ------------------------------------------------------------------ the cursor

    def _answer(self, state_vector: bytes) -> None:
        """Begin the answer to a SyncStep1: the cursor goes back to the beginning and passes over what the client has."""
        decoded = decode_state_vector(state_vector)
        now = self.room.now()
        if self._state_vector is not None or self._is_too_soon(decoded, now):
            self._asked_again = state_vector  # the newest question is answered later; older ones are answered by it
            LIMIT_REACHED.labels("resync").inc()
            return
        self._answered_at = now
        self._begin(decoded)

    def _begin(self, state_vector: dict[int, int]) -> None:
        self._state_vector = state_vector
        self._withheld = False
        self.position = self.room.history.first
        self.catch_up()

    def _is_too_soon(self, state_vector: dict[int, int], now: float) -> bool:
        """Whether this is a repeated question whose answer would be large: 4 bytes must not buy megabytes again and again."""
        if now - self._answered_at >= self.room.limits.resync_interval:
            return False
        history = self.room.history
        pieces: list[Piece] = [*history.segments, *history.tail]
        size = sum([piece.size for piece in pieces if not covers(state_vector, piece.ranges)])
        return size > self.room.limits.viewer_frame_bytes

    def answer_later_question(self, now: float) -> None:
        """Answer a repeated question that had to wait; called by the room's sweep."""
        question = self._asked_again
        if question is None or self._state_vector is not None or self.has_ended:
            return
        if now - self._answered_at >= self.room.limits.resync_interval:
            self._asked_again = None
            self._answered_at = now
            self._begin(decode_state_vector(question))

    def catch_up(self) -> None:
        """Move the cursor towards the head as far as the socket takes bytes, a turn at a time."""
        if self.position == _NOT_ASKED and self._state_vector is None:
            return
        history, sent = self.room.history, 0
        head = history.head
        stretches = history.stretches(self._run_bytes)
        while self.position < head:
            if self.is_congested or self.has_ended:
                return
            if sent >= _BYTES_PER_TURN:
                self.room.loop.call_soon(self.catch_up)
                return
            framed = self._pass(stretches, head)
            if framed:
                self._write(framed)
                sent += len(framed)
        if self._state_vector is not None and not self.is_congested:
            # Last, so that a client counts as synced only when it has everything (y-websocket: first SyncStep2).
            self._state_vector = None
            self._write(history.deletes_frame() if self._withheld else EMPTY_STEP2)

    def _pass(self, stretches: Mapping[int, Stretch], head: int) -> bytes:
        """Move over a segment, a stretch of the tail, or some single entries; return what of it the client is to be sent."""
        history, position = self.room.history, self.position
        if position < history.tail_start:
            self.position += 1
            segment = history.piece(position)
            return b"" if self._has(segment, self.position) else segment.framed
        stretch = stretches.get(position)
        if stretch is not None and self.number not in stretch.origins:
            self.position = stretch.end
            return b"" if self._has(stretch, stretch.end) else stretch.framed
        return self._pass_entries(position + 1, stretches, head)

    def _pass_entries(self, least: int, stretches: Mapping[int, Stretch], head: int) -> bytes:
        """Move over single entries, up to `least` at least and to the next stretch at most; return what is to be sent."""
        tail, tail_start = self.room.history.tail, self.room.history.tail_start
        frames, size = [], 0
        while self.position < head and size < self._run_bytes:
            if self.position >= least and self.position in stretches:
                break
            entry = tail[self.position - tail_start]
            self.position += 1
            if self._has(entry, self.position):
                continue
            if entry.origin == self.number:
                self.pass_own(self.position - 1)
            else:
                frames.append(entry.framed)
                size += len(entry.framed)
        return b"".join(frames)

    def _has(self, piece: Piece | Stretch, end: int) -> bool:
        """Whether the client has the structs of a piece before `end`, and is told its deletes at the end of the answer."""
        if self._state_vector is None or not covers(self._state_vector, piece.ranges):
            return False
        if piece.has_deletes:
            if end > self.room.history.deletes_end():
                return False
            self._withheld = True
        return True

    @property
    def _run_bytes(self) -> int:
        """How much of the tail is written at once: a part of what a socket takes until it is congested."""
        return self.room.limits.segment_bytes // 4

    def pass_own(self, start: int) -> None:
        """The cursor has passed entries from `start` on that are the client's own: it was told nothing by that."""
        if self._swept_position == start:
            self._swept_position = self.position

    @property
    def is_live(self) -> bool:
        """Whether the client has been given its first state and only follows the head."""
        return self.position != _NOT_ASKED and self._state_vector is None

    # ------------------------------------------------------------------ the control box

    def tell_presence(self) -> None:
        """Tell everyone's presence; to a connection that is congested later, once, however often it asks (R4)."""
        if self.is_congested:
            self._must_tell_all = True
            return
        for payload in self.room.presence.everyone():
            self._write(frame(awareness_message(payload)))

    def ask_presence(self) -> None:
        """Have the client announce itself again: y-protocols does so when it is told that it is gone."""
        nulls = self.room.presence.own_nulls(self.attendee)
        if nulls is not None:
            self._tell_presence(awareness_message(nulls))

    def _tell_presence(self, message: bytes) -> None:
        """Tell the client that it is gone, so that it announces itself; one that is congested once it takes bytes again."""
        if self.is_congested:
            self._must_tell_all = self._must_ask_presence = True
        else:
            self._write(frame(message))

    def presence_frames(self, frames: bytes) -> None:
        """Relay presence; a connection that is congested is told everything once it takes bytes again."""
        if self.is_congested:
            self._must_tell_all = True
        elif not self.has_ended:
            self.spoke = True
            self.socket.write(frames)

    def send_receipt(self, number: int) -> None:
        """Tell that the first `number` write messages are saved; while congested, the newest number waits."""
        self._receipt_due = number or self._receipt_due
        if self._receipt_due and not self.is_congested:
            self._write(frame(receipt(self._receipt_due, self.room.log_seq)))
            self._receipt_told, self._receipt_due = self._receipt_due, 0

    def withdraw_receipt(self, position: int) -> None:
        """A receipt that was not told yet is due again when everything before `position` is saved."""
        if self._receipt_due and self.receipts is not None:
            self.receipts.withdraw(self._receipt_told, self._receipt_due, position)
            self._receipt_due = 0

    def sweep(self, now: float) -> None:
        """Called a few times per keepalive interval: an empty awareness frame where nothing was sent for a whole one."""
        if self.spoke or self.position != self._swept_position:
            self.spoke = False
            self._swept_position = self.position
            self._silent_sweeps = 0
        else:
            self._silent_sweeps += 1
            if self._silent_sweeps >= SWEEPS_PER_KEEPALIVE and not self.is_congested:
                self._silent_sweeps = 0
                self.socket.write(_KEEPALIVE_FRAME)
        self.answer_later_question(now)

    def _write(self, framed: bytes) -> None:
        if not self.has_ended:
            self.spoke = True
            self.socket.write(framed)

    def set_right_to_write(self, can_write: bool) -> None:
        """Give or take the right to write while the client stays: what it writes from now on is judged by it."""
        if self.member.can_write != can_write:
            self.member = replace(self.member, can_write=can_write)

    def refuse(self, code: int, reason: str) -> None:
        """Tell a program why its write is refused, once, and close (R10); what it still writes meanwhile is kept aside too."""
        if not self._is_told and not self.has_ended:
            self._is_told = True
            self._write(frame(permission_denied(f'{{"code":"{BY_CODE[code].name}","reason":"{reason}"}}')))
            self._close_later(code, reason)

    def close(self, code: int, reason: str) -> None:
        """Close the socket; nothing more is read of it."""
        if not self.is_closing and not self.has_ended:
            self.is_closing = True
            self.socket.pause_reading()
            self._close_later(code, reason)

    def _close_later(self, code: int, reason: str) -> None:
        """With a permanent code a moment later, since older clients come back at once whatever the code (design §4)."""
        delay = self.room.limits.close_delay if BY_CODE[code].permanent else 0.0
        if delay:
            self.room.loop.call_later(delay, self.socket.close, code, reason)
        else:
            self.socket.close(code, reason)
