"""The server's path of an update without sockets, loop or database: close, keep, relay, answer, fold, restart, compact."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from constructure_sync.protocol.closed_part import Summary
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.state_vector import decode_state_vector, encode_state_vector
from constructure_sync.protocol.update_writer import EMPTY_UPDATE, delete_set_update, join_updates
from constructure_sync.replica.jobs import FoldedPiece, compact, fold, replay
from constructure_sync.rooms.history import Entry, History, Piece, covers

OPEN, CLOSE, UPDATE, STEP1, STEP2 = range(5)
"""Kinds of messages: a client connects or leaves (to a client: its line was cut); an update; the two steps of a sync."""

Message = tuple[int, int, bytes]
"""(client, kind, payload)"""

_NOT_ASKED: Final = -(2**62)


@dataclass(slots=True)
class Line:
    """One connection of a client: a cursor over the history, as `rooms.connection` keeps it."""

    client: int
    number: int
    position: int = _NOT_ASKED
    asked: bool = False
    fruitless: frozenset[tuple[int, int]] = field(default_factory=frozenset)


class OfflineServer:
    """One document. choices: when to fold, compact and crash; every update taken is in the log at once."""

    def __init__(self, choices: random.Random) -> None:
        self.history = History()
        self.taken = self.cut = self.crashes = self.compactions = 0
        self._choices = choices
        self._segment_bytes = choices.choice((64, 512, 4096, 256 * 1024))
        self._segments: list[tuple[bytes, bytes]] = []
        self._rows: list[bytes] = []
        self._lines: dict[int, Line] = {}
        self._numbers = 0
        self._outbox: list[Message] = []

    def tick(self, messages: Sequence[Message]) -> list[Message]:
        """Take what the clients sent and return what they are sent."""
        for client, kind, payload in messages:
            if kind == OPEN:
                self._open(client)
            elif kind == CLOSE:
                del self._lines[client]
            elif kind == STEP1:
                self._answer(self._lines[client], decode_state_vector(payload))
            else:
                self._take(self._lines[client], payload, is_answer=kind == STEP2)
        for line in self._lines.values():
            self._catch_up(line, None)
        sent, self._outbox = self._outbox, []
        return sent

    def _open(self, client: int) -> None:
        self._numbers += 1
        self._lines[client] = line = Line(client, self._numbers)
        self._ask(line)

    def _ask(self, line: Line) -> None:
        if not line.asked:
            line.asked = True
            self._outbox.append((line.client, STEP1, encode_state_vector(self.history.known.clocks)))

    def _take(self, line: Line, update: bytes, *, is_answer: bool) -> None:
        part = self.history.known.close(update)
        if not part.is_empty:
            self.history.append(part, line.number, None, 0.0)
            self._rows.append(part.update)
            self.taken += 1
        self.cut += bool(part.missing)
        if is_answer:
            line.asked = False
            line.fruitless = frozenset(part.missing)
        if part.missing and not line.fruitless.issuperset(part.missing):
            self._ask(line)

    def _answer(self, line: Line, state_vector: dict[int, int]) -> None:
        line.position = self.history.first
        self._catch_up(line, state_vector)

    def _catch_up(self, line: Line, state_vector: dict[int, int] | None) -> None:
        if line.position == _NOT_ASKED:
            return
        withheld = False
        while line.position < self.history.head:
            piece = self.history.piece(line.position)
            line.position += 1
            if state_vector is not None and covers(state_vector, piece.ranges):
                withheld = withheld or piece.has_deletes
            elif not (isinstance(piece, Entry) and piece.origin == line.number):
                self._outbox.append((line.client, UPDATE, piece.update))
        if state_vector is not None:
            deletes = delete_set_update(self.history.known.deletes) if withheld else EMPTY_UPDATE
            self._outbox.append((line.client, STEP2, deletes))

    # What happens between two ticks

    def disturb(self) -> list[Message]:
        """Perhaps fold, compact, or crash; return what the clients notice of it."""
        luck = self._choices.random()
        if luck < 0.25:
            self.fold()
        elif luck < 0.33:
            self.compact()
        elif luck < 0.40:
            return self.restart(lost=self._choices.choice((0, 1, 2, 5)))
        return []

    def fold(self) -> None:
        """Fold the whole tail, as a room does with its saved part."""
        history = self.history
        history.mark_saved(history.head)
        segments, entries = history.segments, len(history.tail)
        is_last_small = bool(segments) and len(segments[-1].framed) < self._segment_bytes // 2
        first = len(segments) - 1 if is_last_small else len(segments)
        pieces: list[Piece] = [*segments[first:], *history.tail]
        folded = history.fold(first, entries, fold([piece.update for piece in pieces], self._segment_bytes))
        for line in self._lines.values():
            line.position = history.moved(line.position, folded)

    def compact(self) -> None:
        """Put the compacted log in the place of the stored one; the open room goes on as it is."""
        self._segments = compact(self.log(), self._segment_bytes)
        self._rows = []
        self.compactions += 1

    def restart(self, lost: int = 0) -> list[Message]:
        """Load the document from what is stored, but for so many updates that no commit held; cut every line."""
        self._rows = self._rows[: len(self._rows) - lost]
        before = self.history.known
        self.history = self._loaded()
        if not lost and (self.history.known.clocks != before.clocks or self.history.known.deletes != before.deletes):
            raise AssertionError("a restart knows something else")
        self.crashes += 1
        cut = [(client, CLOSE, b"") for client in self._lines]
        self._lines.clear()
        return cut

    def _loaded(self) -> History:
        """As `Rooms` opens a stored document, with a long or a short tail."""
        history = History()
        summaries = [summary for _, summary in self._segments]
        is_long = self._choices.random() < 0.5
        folded: list[FoldedPiece] = []
        if is_long:
            history.known, folded = replay(summaries, self._rows, self._segment_bytes)
        for update, encoded in self._segments:
            summary = Summary.decode(encoded)
            if not is_long:
                history.known.add_summary(summary)
            history.load_segment(update, summary.ranges, bool(summary.deletes))
        for piece in folded:
            history.load_segment(piece.update, piece.ranges, piece.has_deletes)
        for row in [] if is_long else self._rows:
            history.append(history.known.close(row), origin=0, user_id=None, taken_at=0.0)
        return history

    # What the document is

    def log(self) -> list[bytes]:
        """Return what is stored, in order."""
        return [piece for piece, _ in self._segments] + self._rows

    def documents(self) -> list[tuple[str, list[bytes]]]:
        """Return every form in which somebody may load the document, with its name."""
        history, log = self.history, self.log()
        served = [piece.update for piece in [*history.segments, *history.tail]]
        compacted = [piece for piece, _ in compact(log, self._segment_bytes)]
        again = [piece for piece, _ in compact(compacted, 128)]
        return [
            ("joining", [*served, delete_set_update(history.known.deletes)]),
            ("log", log),
            ("joined", join_updates(log)),
            ("compacted", compacted),
            ("compacted twice", again),
        ]

    def check_known(self) -> None:
        """Raise AssertionError unless what the room knows is what its log says."""
        known = Known()
        for update in self.log():
            part = known.close(update)
            if part.missing:
                raise AssertionError("the log is not closed")
            known.add(part)
        if known.clocks != self.history.known.clocks or known.deletes != self.history.known.deletes:
            raise AssertionError("the room knows something else than its log")
