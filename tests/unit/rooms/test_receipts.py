"""The numbers behind `?ack=seq`: how many of the first write messages are saved (R1, R11)."""

from constructure_sync.rooms.receipts import Receipts


def test_R1_a_receipt_waits_until_the_position_of_its_write_is_saved() -> None:
    receipts = Receipts()
    receipts.note(1)
    receipts.note(2)
    receipts.note(3)
    assert [receipts.saved(position) for position in (0, 1, 1, 3, 3)] == [0, 1, 0, 3, 0]


def test_R11_a_write_that_held_nothing_new_waits_for_what_was_there_when_it_came() -> None:
    receipts = Receipts()
    receipts.note(5)
    receipts.note(5)
    assert receipts.saved(4) == 0
    assert receipts.saved(5) == 2


def test_a_gap_holds_back_what_came_behind_it_until_the_client_has_given_what_it_can() -> None:
    receipts = Receipts()
    receipts.note(1)
    receipts.note(1, gap=True)
    receipts.note(2)
    assert receipts.saved(9) == 1
    receipts.close_gaps(12)
    assert receipts.saved(11) == 0
    assert receipts.saved(12) == 3


def test_a_second_gap_waits_for_the_second_answer() -> None:
    receipts = Receipts()
    receipts.note(1, gap=True)
    receipts.close_gaps(2)
    receipts.note(2)
    receipts.note(2, gap=True)
    assert receipts.saved(9) == 2
    receipts.close_gaps(4)
    assert receipts.saved(4) == 3


def test_closing_no_gap_changes_nothing() -> None:
    receipts = Receipts()
    receipts.note(3)
    receipts.close_gaps(9)
    assert receipts.saved(3) == 1


def test_R13_writes_behind_an_open_gap_take_no_more_memory() -> None:
    receipts = Receipts()
    for position in range(1000):
        receipts.note(position, gap=position % 2 == 0)
    assert len(receipts.due) == 1
    receipts.close_gaps(1000)
    assert receipts.saved(1000) == 1000
