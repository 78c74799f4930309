"""Faults that such servers have had, each put in the place of a method; a simulator that misses one is worth nothing."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final
from unittest.mock import patch

from pycrdt import Doc, Map

from constructure_sync.persistence.compactor import Compactor
from constructure_sync.protocol.framing import frame
from constructure_sync.protocol.known import ClosedPart
from constructure_sync.protocol.messages import Message, Update, update_message
from constructure_sync.protocol.update_reader import read_update
from constructure_sync.replica.jobs import FoldedPiece
from constructure_sync.rooms import room as room_module
from constructure_sync.rooms.connection import Connection
from constructure_sync.rooms.history import EMPTY_STEP2
from constructure_sync.rooms.presence import Attendee, Presence
from constructure_sync.rooms.receipts import Receipts
from constructure_sync.rooms.room import Room
from storage.contracts import StoredDocument
from tests.properties.simulator import planted_between
from tests.properties.simulator.schedule import run_schedule
from tests.properties.simulator.storage import SimulatedLog

Fault = Callable[[], AbstractContextManager[object]]


def receipt_before_commit() -> AbstractContextManager[object]:
    saved = Receipts.saved

    def at_once(self: Receipts, position: int) -> int:
        return saved(self, 2**62)

    return patch.object(Receipts, "saved", at_once)


def relay_of_an_unread_update() -> AbstractContextManager[object]:
    handle = Connection._handle

    def relay_first(self: Connection, message: Message) -> None:
        if isinstance(message, Update):
            for other in self.room.connections:
                if other is not self and other.is_live:
                    other.socket.write(frame(update_message(message.update)))
        handle(self, message)

    return patch.object(Connection, "_handle", relay_first)


def a_documents_update_as_segment() -> AbstractContextManager[object]:
    def fold(updates: Sequence[bytes], segment_bytes: int) -> list[FoldedPiece]:
        doc: Doc[Map[object]] = Doc()
        for update in updates:
            doc.apply_update(update)
        merged = doc.get_update()
        parsed = read_update(merged)
        ranges = tuple((each.client, each.structs[0].clock, each.structs[-1].end) for each in parsed.sections)
        return [FoldedPiece(merged, ranges, bool(parsed.deletes))]

    return patch.object(room_module, "fold", fold)


def a_gap_stored() -> AbstractContextManager[object]:
    def take(self: Room, connection: Connection, update: bytes, is_answer: bool) -> None:
        part = self.history.known.close(update)
        if part.missing:
            sections = read_update(update).sections
            ranges = tuple((each.client, each.structs[0].clock, each.structs[-1].end) for each in sections)
            part = ClosedPart(update, ranges, part.deletes, tuple((*each, 2) for each in ranges), ())
        self._accept(connection, update, part, is_answer)

    return patch.object(Room, "take", take)


def a_viewers_answer_taken() -> AbstractContextManager[object]:
    accept = Room._accept

    def accept_answers(self: Room, connection: Connection, update: bytes, part: ClosedPart, is_answer: bool) -> None:
        member = connection.member
        connection.member = replace(member, can_write=member.can_write or is_answer)
        accept(self, connection, update, part, is_answer)
        connection.member = member

    return patch.object(Room, "_accept", accept_answers)


def a_join_with_an_await_in_the_middle() -> AbstractContextManager[object]:
    def begin(self: Connection, state_vector: dict[int, int]) -> None:
        history = self.room.history
        pieces = [history.piece(position) for position in range(history.first, history.head)]

        async def send() -> None:
            await asyncio.sleep(0.01)
            for piece in pieces:
                self._write(piece.framed)
            self.position = history.head
            self._write(EMPTY_STEP2)

        self.room.own("join", send)

    return patch.object(Connection, "_begin", begin)


def a_receipt_for_a_repeated_unsaved_write() -> AbstractContextManager[object]:
    accept = Room._accept

    def accept_repeated(self: Room, connection: Connection, update: bytes, part: ClosedPart, is_answer: bool) -> None:
        if part.is_empty and not part.missing and connection.receipts is not None:
            connection.receipts.note(self.history.saved)
            connection.send_receipt(connection.receipts.saved(self.history.saved))
        else:
            accept(self, connection, update, part, is_answer)

    return patch.object(Room, "_accept", accept_repeated)


def rows_deleted_before_the_segment_is_written() -> AbstractContextManager[object]:
    compact = Compactor._compact

    async def delete_first(self: Compactor, stored: StoredDocument) -> bool:
        if isinstance(self._stored, SimulatedLog):
            rows = self._stored.stored._documents[stored.document_id].rows
            for update in stored.updates:
                del rows[update.seq]
        return await compact(self, stored)

    return patch.object(Compactor, "_compact", delete_first)


def presence_of_a_dead_socket_kept() -> AbstractContextManager[object]:
    def leave(self: Presence, attendee: Attendee, now: float) -> None:
        pass

    return patch.object(Presence, "leave", leave)


PLANTED: Final[dict[str, Fault]] = {
    fault.__name__: fault
    for fault in (
        receipt_before_commit,
        relay_of_an_unread_update,
        a_documents_update_as_segment,
        a_gap_stored,
        a_viewers_answer_taken,
        a_join_with_an_await_in_the_middle,
        a_receipt_for_a_repeated_unsaved_write,
        rows_deleted_before_the_segment_is_written,
        presence_of_a_dead_socket_kept,
        *planted_between.FAULTS,
    )
}


def seeds_until_caught(name: str, limit: int) -> int:
    """Return how many schedules it takes until this fault breaks a rule; 0: it broke none in `limit`."""
    with PLANTED[name]():
        for seed in range(limit):
            if run_schedule(seed).violations:
                return seed + 1
    return 0
