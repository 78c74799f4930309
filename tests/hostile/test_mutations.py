"""Mutated updates through the reader, pycrdt and stock Yjs: a short run of `make faults ARGS="mutations"`, and what it found."""

from tests.faults.mutations import play

COUNT = 5_000
SEED = 3


def test_mutated_updates_that_are_taken_harm_nobody() -> None:
    outcome = play(SEED, COUNT, histories=12)
    assert outcome.failures == []
    assert outcome.counts["mutated"] == COUNT
    assert outcome.counts["accepted"] > COUNT // 20
    assert outcome.counts["refused"] > COUNT // 2
