"""The seeded simulator: whole schedules of edits, cuts, crashes, failing stores and logs that are set back, on the real core of
one to three instances over one log and one bus (R1–R13).

A failing seed is printed; `python -m tests.faults schedules --only SEED` runs it again, and the same seed is the same schedule.
"""

import pytest

from tests.properties.simulator.planted import PLANTED, seeds_until_caught
from tests.properties.simulator.schedule import run_schedule

SCHEDULES = 300
SEEDS_FOR_A_FAULT = 100
_BLOCKS = 10
_SEEDS_THAT_FAILED = {
    686: "a receipt waits for a congested socket while its log is set back",
    1892: "a large update of another instance is read while the room heals",
    2525: "a log that was set back lacks deletes that a collected segment only implies, and a large answer repeats them",
    2867: "a log that was set back lacks deletes that a collected segment only implies",
    3730: "such deletes are offered last, and a receipt for one of them is due before",
    5947: "the structs of a collected segment come from elsewhere while the room heals, without their deletes",
}


@pytest.mark.parametrize("block", range(_BLOCKS))
def test_every_schedule_ends_with_equal_replicas_and_no_acknowledged_edit_lost(block: int) -> None:
    share = SCHEDULES // _BLOCKS
    outcomes = [run_schedule(seed) for seed in range(block * share, (block + 1) * share)]
    broken = {outcome.seed: outcome.violations for outcome in outcomes if outcome.violations}
    assert not broken
    assert not any(outcome.lost for outcome in outcomes)
    assert sum(outcome.acknowledged for outcome in outcomes) > 10 * share


@pytest.mark.parametrize("seed", _SEEDS_THAT_FAILED, ids=_SEEDS_THAT_FAILED.get)
def test_a_schedule_that_broke_a_rule_once(seed: int) -> None:
    assert not run_schedule(seed).violations


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_fault_is_caught(name: str) -> None:
    assert seeds_until_caught(name, SEEDS_FOR_A_FAULT)


def test_R14_one_seed_is_one_schedule() -> None:
    assert run_schedule(7) == run_schedule(7)
