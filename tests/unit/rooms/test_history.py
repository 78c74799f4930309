"""The history of a room: positions that last, folding, and what its prefixes hold."""

from collections.abc import Sequence

import pytest

from constructure_sync.protocol.framing import frame
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.messages import sync_step1
from constructure_sync.replica.jobs import fold
from constructure_sync.rooms.history import History, covers
from tests.unit.rooms.bench import edits


def history_of(updates: Sequence[bytes], saved: int) -> History:
    history = History()
    for update in updates:
        history.append(history.known.close(update), 1, None, 0.0)
    history.mark_saved(saved)
    return history


def contents(history: History) -> list[bytes]:
    return [history.piece(position).update for position in range(history.first, history.head)]


@pytest.mark.parametrize(
    ("state_vector", "ranges", "is_covered"),
    [
        ({}, [], True),
        ({}, [(1, 0, 1)], False),
        ({1: 4}, [(1, 0, 4)], True),
        ({1: 4}, [(1, 0, 5)], False),
        ({1: 9, 2: 1}, [(1, 0, 5), (2, 0, 2)], False),
    ],
)
def test_a_state_vector_covers_what_ends_below_it(
    state_vector: dict[int, int], ranges: list[tuple[int, int, int]], is_covered: bool
) -> None:
    assert covers(state_vector, ranges) is is_covered


def test_every_update_has_a_position_and_what_is_saved_stays_saved() -> None:
    updates = edits(5)
    history = history_of(updates, saved=3)
    assert contents(history) == updates
    assert [(position, piece.update) for position, piece in history.pieces()] == list(enumerate(updates))
    history.mark_saved(2)
    assert history.saved == 3
    assert history.foldable(segment_bytes=1, fold_entries=9) == 3
    assert (history.first, history.head) == (0, 5)
    with pytest.raises(IndexError):
        history.piece(5)
    with pytest.raises(IndexError):
        history.piece(-1)


@pytest.mark.parametrize("segment_bytes", [1, 60, 10_000])
def test_folding_keeps_content_order_and_the_positions_of_the_tail(segment_bytes: int) -> None:
    updates = edits(8)
    history = history_of(updates, saved=6)
    folded = history.fold(0, 5, fold(updates[:5], segment_bytes))
    assert contents(history)[-3:] == updates[5:]
    assert (history.head, history.tail_start) == (8, 5)
    assert [history.piece(position).update for position in (5, 6, 7)] == updates[5:]
    assert history.size == sum(len(piece) for piece in contents(history))
    known = Known()
    for update in contents(history):
        part = known.close(update)
        assert not part.missing
        known.add(part)
    assert known.clocks == history.known.clocks
    assert [history.moved(position, folded) for position in (5, 6, 8)] == [5, 6, 8]


def test_a_cursor_inside_what_was_folded_takes_it_again_from_its_beginning() -> None:
    updates = edits(10)
    history = history_of(updates, saved=10)
    history.fold(0, 4, fold(updates[:4], 60))
    segments = len(history.segments)
    assert segments > 1
    before = {history.first + index: index for index in range(segments + 6)}
    folded = history.fold(segments - 1, 3, fold(contents(history)[segments - 1 : segments + 3], 10_000))
    for position, index in before.items():
        moved = history.moved(position, folded)
        if index <= segments - 1:
            assert moved == history.first + index
        elif index < segments + 3:
            assert moved == history.first + segments - 1
        else:
            assert moved == position


def test_a_cursor_that_is_not_set_stays_so() -> None:
    updates = edits(4)
    history = history_of(updates, saved=4)
    folded = history.fold(0, 4, fold(updates, 10_000))
    assert history.moved(-(2**62), folded) == -(2**62)


def test_only_saved_updates_are_foldable() -> None:
    history = history_of(edits(10), saved=4)
    assert history.foldable(1, 1000) == 4
    assert history.foldable(10_000, 1000) == 0
    assert history.foldable(10_000, 4) == 4
    assert history_of(edits(10), saved=0).foldable(1, 1) == 0
    history.fold(0, 4, fold(contents(history)[:4], 10_000))
    assert history.foldable(1, 1) == 0


def test_stretches_hold_the_tail_in_order_and_what_is_too_little_stands_alone() -> None:
    updates = edits(10)
    history = history_of(updates, saved=10)
    sizes = [len(entry.framed) for entry in history.tail]
    stretches = history.stretches(sum(sizes[:3]))
    first = stretches[0]
    assert first.framed == b"".join(entry.framed for entry in history.tail[: first.end])
    position = 0
    while position in stretches:
        position = stretches[position].end
    assert 0 < 10 - position < 3
    assert list(first.ranges) == [(7, 0, first.end)]


def test_a_stretch_goes_with_the_entries_that_are_folded_out_of_it() -> None:
    updates = edits(12)
    history = history_of(updates, saved=12)
    size = len(history.tail[0].framed)
    before = dict(history.stretches(3 * size))
    history.fold(0, 4, fold(updates[:4], 10_000))
    after = history.stretches(3 * size)
    assert set(after) == {start for start in before if start >= 4}
    assert all(after[start] is before[start] for start in after)
    history.fold(0, len(history.tail), fold(updates[4:], 10_000))
    assert not history.stretches(3 * size)


def test_the_frame_of_all_deletes_is_kept_while_few_updates_follow() -> None:
    updates = edits(200)
    history = history_of(updates[:100], saved=0)
    assert history.deletes_end() == 100
    framed = history.deletes_frame()
    for update in updates[100:110]:
        history.append(history.known.close(update), 1, None, 0.0)
    assert history.deletes_end() == 100
    assert history.deletes_frame() is framed
    for update in updates[110:]:
        history.append(history.known.close(update), 1, None, 0.0)
    assert history.deletes_end() == 200
    history.deletes_frame()
    history.mark_saved(10)
    history.fold(0, 10, fold(updates[:10], 10_000))
    assert history.deletes_end() == history.head == 200


def test_the_question_is_made_once_until_more_is_known() -> None:
    updates = edits(2)
    history = history_of(updates[:1], saved=0)
    question = history.question()
    assert question == frame(sync_step1(b"\x01\x07\x01"))
    assert history.question() is question
    history.append(history.known.close(updates[1]), 1, None, 0.0)
    assert history.question() == frame(sync_step1(b"\x01\x07\x02"))
