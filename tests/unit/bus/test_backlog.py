"""What waits for the bus: in order, bounded by number and by bytes, and what is lost is remembered by channel (BU1, BU4)."""

from constructure_sync.bus.backlog import Backlog, Outgoing


def taken(backlog: Backlog) -> list[Outgoing]:
    outgoing = []
    while (each := backlog.take()) is not None:
        outgoing.append(each)
    return outgoing


def fill(backlog: Backlog, count: int, size: int = 1, channel: bytes = b"a") -> None:
    for _ in range(count):
        backlog.add(channel, bytes(size), "Saved")


def test_messages_leave_in_the_order_of_their_publishing() -> None:
    backlog = Backlog(10, 10_000)
    fill(backlog, 4)
    assert [each.number for each in taken(backlog)] == [1, 2, 3, 4]
    assert backlog.take() is None


def test_what_was_sent_and_not_answered_goes_first_again() -> None:
    backlog = Backlog(10, 10_000)
    fill(backlog, 3)
    sent = [backlog.take(), backlog.take()]
    fill(backlog, 1)
    backlog.put_back([each for each in reversed(sent) if each is not None])
    assert [each.number for each in taken(backlog)] == [1, 2, 3, 4]


def test_BU1_beyond_the_number_the_oldest_are_lost() -> None:
    backlog = Backlog(3, 10_000)
    fill(backlog, 5)
    assert [each.number for each in taken(backlog)] == [3, 4, 5]


def test_BU1_beyond_the_bytes_the_oldest_are_lost_and_one_that_is_too_large_alone() -> None:
    backlog = Backlog(100, 1_000)
    fill(backlog, 5, size=400)
    assert [each.number for each in taken(backlog)] == [4, 5]
    fill(backlog, 1, size=400)
    fill(backlog, 1, size=2_000)
    assert len(backlog) == 0


def test_BU1_what_is_put_back_counts_like_what_is_new() -> None:
    backlog = Backlog(3, 10_000)
    fill(backlog, 3)
    sent = taken(backlog)
    fill(backlog, 2)
    backlog.put_back(sent)
    assert [each.number for each in taken(backlog)] == [3, 4, 5]


def test_BU4_the_channels_that_lost_something_are_told_once() -> None:
    backlog = Backlog(2, 10_000)
    fill(backlog, 1, channel=b"a")
    fill(backlog, 2, channel=b"b")
    assert backlog.take_lossy() == [b"a"]
    assert backlog.take_lossy() == []


def test_R13_the_channels_that_lost_something_are_bounded() -> None:
    backlog = Backlog(2, 10_000)
    for number in range(10):
        fill(backlog, 1, channel=b"%d" % number)
    assert backlog.take_lossy() == [b"6", b"7"]
