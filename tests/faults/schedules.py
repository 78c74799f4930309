"""Schedules of the simulator: the real core of one to three instances under a virtual clock; what goes wrong comes from one seed.

Lines are cut, instances crash and stop, the database fails for one or all, commits are decided later than their writer lives, the
bus loses, repeats, reorders and parts instances from one another, and logs are set back as a failover or a restored backup does.
Each schedule must end with equal replicas, with every acknowledged edit in a fresh load that anyone still held when a log was set
back, and with no rule broken on the way. Then each planted fault must be caught.
"""

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.properties.simulator.planted import PLANTED, seeds_until_caught
from tests.properties.simulator.schedule import Outcome, run_schedule

_SEEDS_FOR_A_FAULT = 400
_BROKEN_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this run."""
    parser.add_argument("--count", type=int, default=10_000, help="how many schedules")
    parser.add_argument(
        "--only", type=int, metavar="SEED", help="run just the schedule of this seed and show all it broke"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")


def run(arguments: argparse.Namespace) -> int:
    """Run the schedules and print what they showed."""
    if arguments.only is not None:
        outcome = run_schedule(arguments.only)
        print(outcome)
        return bool(outcome.violations)
    return _run_many(arguments.seed, arguments.count, arguments.jobs) | _run_planted(arguments.jobs)


def _run_many(first: int, count: int, jobs: int) -> int:
    started = time.monotonic()
    broken = edits = acknowledged = lost = vanished = set_back = diverged = 0
    for outcome in _outcomes(range(first, first + count), jobs):
        edits += outcome.edits
        acknowledged += outcome.acknowledged
        lost += outcome.lost
        vanished += outcome.vanished
        set_back += outcome.set_back
        diverged += any("divergence" in violation for violation in outcome.violations)
        if outcome.violations:
            broken += 1
            if broken <= _BROKEN_SHOWN:
                print(f"seed {outcome.seed}: {outcome.violations[0]}", flush=True)
    print(
        f"{count} schedules, {broken} broke a rule, {diverged} diverged; {edits} edits, {acknowledged} acknowledged, "
        f"{lost} of these lost ({vanished} vanished with everyone who held them, in {set_back} logs set back); "
        f"{time.monotonic() - started:.1f} s"
    )
    return int(broken > 0)


def _outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run_schedule, seeds, chunksize=20)


def _run_planted(jobs: int) -> int:
    missed = 0
    with ProcessPoolExecutor(jobs) as pool:
        for name, seeds in zip(
            PLANTED, pool.map(seeds_until_caught, PLANTED, [_SEEDS_FOR_A_FAULT] * len(PLANTED)), strict=True
        ):
            print(f"{name.replace('_', ' ')}: {f'caught by schedule {seeds}' if seeds else 'NOT CAUGHT'}")
            missed += not seeds
    print(f"{len(PLANTED)} planted faults, {missed} not caught")
    return int(missed > 0)
