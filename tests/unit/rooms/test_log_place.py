"""Where a room stands in its document's log, whatever the bus brings (R6, R9)."""

import random

import pytest

from constructure_sync.bus.contracts import Saved
from constructure_sync.rooms.log_place import MAX_WAITING, LogPlace
from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import BEGINNING, Appended, Head
from tests.unit.rooms.bench import DOCUMENT


def saved(first: int, last: int, previous: int | None = None) -> Saved:
    """Return a commit whose id is its last Seq times ten."""
    before = CommitId((first - 1) * 10 if previous is None else previous)
    updates = tuple(b"%d" % seq for seq in range(first, last + 1))
    return Saved(Seq(first), Seq(last), CommitId(last * 10), before, updates)


def head(seq: int) -> Head:
    return Head(Seq(seq), CommitId(seq * 10))


def take_all(place: LogPlace) -> list[bytes]:
    taken: list[bytes] = []
    while (following := place.next()) is not None:
        taken += following.updates
        place.move(following.head)
    return taken


def test_R6_commits_are_taken_in_the_order_of_their_seqs_whatever_order_they_come_in() -> None:
    commits = [saved(1, 1), saved(2, 4), saved(5, 5), saved(6, 9)]
    for seed in range(24):
        place, taken = LogPlace(BEGINNING), list[bytes]()
        order = [*commits, *commits]
        random.Random(seed).shuffle(order)
        for commit in order:
            place.heard(commit)
            taken += take_all(place)
        assert taken == [b"%d" % seq for seq in range(1, 10)]
        assert (place.head, place.newest, place.has_hole, place.must_look) == (head(9), head(9), False, False)


def test_R6_what_lies_behind_a_hole_waits() -> None:
    place = LogPlace(head(3))
    place.heard(saved(5, 6))
    assert (place.next(), place.has_hole) == (None, True)
    place.heard(saved(4, 4))
    assert take_all(place) == [b"4", b"5", b"6"]


def test_R6_an_own_commit_beyond_a_hole_is_the_newest_and_not_the_head() -> None:
    place = LogPlace(head(3))
    place.own(Appended(DocumentId(DOCUMENT), Seq(5), Seq(6), CommitId(40)), CommitId(60))
    assert (place.head, place.newest, place.has_hole) == (head(3), head(6), True)
    place.heard(saved(4, 4))
    assert take_all(place) == [b"4"]
    assert (place.head, place.has_hole) == (head(6), False)


@pytest.mark.parametrize(
    "commit",
    [
        saved(4, 4, previous=31),  # it follows on another 3 than ours
        Saved(Seq(3), Seq(3), CommitId(31), CommitId(20), (b"other",)),  # our 3 was written by another commit
        Saved(Seq(4), Seq(5), CommitId(50), CommitId(30), (b"4",)),  # says two and brings one
    ],
)
def test_R9_what_cannot_be_right_is_not_taken_but_a_reason_to_look(commit: Saved) -> None:
    place = LogPlace(head(3))
    place.heard(commit)
    assert (take_all(place), place.must_look, place.head) == ([], True, head(3))


def test_an_old_repeat_is_nothing() -> None:
    place = LogPlace(head(5))
    for commit in (saved(2, 4), saved(5, 5), saved(4, 5)):
        place.heard(commit)
    assert (place.has_hole, place.must_look) == (False, False)


def test_the_rest_of_a_commit_that_was_read_half_from_the_log_is_taken() -> None:
    place = LogPlace(Head(Seq(4), CommitId(60)))
    place.heard(saved(3, 6))
    assert take_all(place) == [b"5", b"6"]
    assert place.head == head(6)


def test_updates_that_did_not_travel_are_a_hole() -> None:
    place = LogPlace(head(3))
    place.heard(Saved(Seq(4), Seq(4), CommitId(40), CommitId(30), None))
    assert (place.next(), place.has_hole) == (None, True)
    place.move(head(4))
    assert not place.has_hole


def test_R13_what_waits_behind_a_hole_is_bounded_and_the_log_is_read_instead() -> None:
    place = LogPlace(head(1))
    for seq in range(3, MAX_WAITING + 4):
        place.heard(saved(seq, seq))
    assert place.must_look
    place.move(head(MAX_WAITING + 3))
    assert not place.has_hole
