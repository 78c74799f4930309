"""What the worker that examines a log raises and finds."""

import pytest

from constructure_sync.replica.examination import Census, count, first_fault, project, rebuild
from constructure_sync.replica.pool import Panic
from constructure_sync.replica.projection import NotProjected, project_course
from tests.unit.protocol.updates import section, skip, text, update

WORD = update(section(3, 0, text("word")))
NEXT = update(section(3, 4, text("next", origin=(3, 3))))
GAP = update(section(5, 0, text("a"), skip(1), text("b", origin=(5, 1))))
SECTION_WITHOUT_STRUCTS = bytes.fromhex("0100030000")  # of a client that the document knows


def test_R13_what_pycrdt_raises_can_be_caught_by_whoever_asked() -> None:
    for job in (project, lambda updates: project_course("a course", 0, 1, updates)):
        with pytest.raises(NotProjected):
            job([WORD, WORD[:-3]])
        with pytest.raises(Panic):
            job([WORD, SECTION_WITHOUT_STRUCTS])
        job([WORD, NEXT])


def test_the_first_fault_is_malformed_or_unclosed() -> None:
    assert first_fault([WORD, NEXT]) is None
    assert first_fault([WORD, GAP, WORD[:-1]]) == (1, "a part waits for what is not there: client 5 from clock 1")
    assert first_fault([WORD, WORD[:-1], GAP]) == (1, "malformed: integer is cut off or too long")
    assert first_fault([NEXT, WORD]) == (0, "a part waits for what is not there: client 3 from clock 0")


def test_a_census_counts_what_integrates() -> None:
    assert count([WORD, GAP, WORD[:-1], NEXT]) == Census(clients=2, structs=3, pending=2)


def test_a_rebuilt_log_holds_what_integrates_in_whatever_order_it_lay() -> None:
    rebuilt = rebuild([NEXT, WORD[:-1], GAP, WORD], 1024)

    assert [left.place for left in rebuilt.left_out] == [1, 2]
    assert count([piece for piece, _ in rebuilt.pieces]) == Census(clients=2, structs=2, pending=0)
