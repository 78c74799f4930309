"""Compactions that are cut short, race or lose power leave every log as it was; the long run is `tests.faults compaction`."""

from tests.faults.compaction import COMPACTIONS_OF_A_HISTORY, play

HISTORIES = 15


def test_R7_compactions_cut_at_any_step_change_nothing_that_anybody_sees() -> None:
    tally = play(range(1, HISTORIES + 1))
    assert tally.failures == []
    assert tally.attempts >= HISTORIES * COMPACTIONS_OF_A_HISTORY
    assert len(tally.cuts) > 20, "cuts everywhere"
    assert min(tally.done, tally.overtaken, tally.power_cuts, tally.purged) > 0
