"""What a room still has to have saved."""

from constructure_sync.rooms.history import Entry
from constructure_sync.rooms.outbox import Outbox


def entry(size: int) -> Entry:
    return Entry(b"x" * size, (), False, 1, None, 0.0)


def test_everything_before_the_first_that_waits_is_saved() -> None:
    outbox = Outbox()
    assert outbox.saved_to(7) == 7
    outbox.add(7, entry(3))
    outbox.add(9, entry(4))
    assert (outbox.saved_to(10), len(outbox), outbox.size) == (7, 2, 7)
    outbox.drop(1)
    assert (outbox.saved_to(10), outbox.oldest.size) == (9, 4)
    outbox.drop(1)
    assert outbox.saved_to(10) == 10


def test_a_batch_is_bounded_by_count_and_bytes_and_holds_at_least_one() -> None:
    outbox = Outbox()
    for position, size in enumerate((5, 5, 5)):
        outbox.add(position, entry(size))
    assert [len(outbox.first(*bounds)) for bounds in ((9, 99), (2, 99), (9, 11), (9, 1), (0, 0))] == [3, 2, 2, 1, 1]
    assert len(outbox) == 3


def test_R9_what_is_offered_again_stands_where_it_always_stood() -> None:
    outbox = Outbox()
    outbox.add(4, entry(1))
    outbox.add(6, entry(2))
    outbox.replace([(1, entry(8)), *outbox.from_position(5)])
    assert (outbox.saved_to(9), [each.size for each in outbox.entries]) == (1, [8, 2])
