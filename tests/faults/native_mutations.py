"""Mutated updates through the compiled readers under AddressSanitizer and UBSan, and beside the same readers in Python.

The sanitizers must be in the process from its start, so the run is a process of its own that loads them first.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.closed_part import ClosedPart
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.readers import Compiled
from constructure_sync.protocol.short_updates import MAX_BYTES, close_short
from constructure_sync.protocol.update_cut import delete_set_update
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, UpdateLimits, read_update
from constructure_sync.protocol.update_writer import join_updates
from tests.compiled import built, load
from tests.faults import native_reading
from tests.faults.genuine import genuine_histories
from tests.faults.mutator import mutate
from tests.faults.native_reading import Outcome
from tests.unit.protocol.forger import Forger
from tests.unit.protocol.golden import HISTORIES
from tests.unit.protocol.test_update_reader import EVERYTHING

SANITIZE: Final = ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PLACES_PER_HISTORY: Final = 12
NARROW: Final = UpdateLimits(max_depth=2, max_any_depth=1, max_delete_ranges=2)
RANDOM_SHARE: Final = 0.05
FORGED_PER_DOCUMENT: Final = 60


@dataclass(frozen=True, slots=True)
class Ground:
    """An update that editing made, or several in one, and what was known when it came."""

    known: Known
    update: bytes


def grounds(histories: Sequence[Sequence[bytes]], choices: random.Random) -> list[Ground]:
    """Some short updates of each history, each on what came before it; also with some that follow, as sent after a pause."""
    found = []
    for updates in histories:
        chosen = set(choices.sample(range(len(updates)), min(PLACES_PER_HISTORY, len(updates))))
        known = Known()
        for place, update in enumerate(updates):
            if place in chosen and len(update) <= MAX_BYTES:
                found.append(Ground(known.copy(), update))
                found.append(
                    Ground(known.copy(), after_a_pause(known, updates[place : place + choices.randint(2, 20)]))
                )
            known.add(known.close_fully(update))
    return found


def after_a_pause(known: Known, updates: Sequence[bytes]) -> bytes:
    """Join updates as a client does that comes back: one update, and everything in it that it knows to be deleted."""
    return join_updates((*updates, delete_set_update(known.deletes)))[0]


def play_forged(compiled: Compiled, seed: int, count: int) -> Outcome:
    """Compare the readers over so many updates of random shapes, each on what was taken of those before it."""
    forger, outcome, known = Forger(seed), Outcome(), Known()
    for number in range(count):
        if number % FORGED_PER_DOCUMENT == 0:
            forger, known = Forger(seed + number), Known()
        update = forger.update()
        compare(compiled, known, mutate(update, (update,), forger.rng), DEFAULT_LIMITS, outcome)
        compare(compiled, known, update, DEFAULT_LIMITS, outcome)
        part = _attempt(partial(known.close_fully, update))
        if isinstance(part, ClosedPart):
            known.add(part)
    return outcome


def play(compiled: Compiled, histories: Sequence[Sequence[bytes]], seed: int, count: int) -> Outcome:
    """Compare the readers over so many mutations."""
    choices = random.Random(seed)
    found = grounds(histories, choices)
    others = [ground.update for ground in found]
    outcome = Outcome()
    for _ in range(count):
        ground = choices.choice(found)
        is_random = choices.random() < RANDOM_SHARE
        update = choices.randbytes(choices.randrange(40)) if is_random else mutate(ground.update, others, choices)
        compare(compiled, ground.known, update, choices.choice((DEFAULT_LIMITS, DEFAULT_LIMITS, NARROW)), outcome)
    return outcome


def compare(compiled: Compiled, known: Known, update: bytes, limits: UpdateLimits, outcome: Outcome) -> None:
    """Note what the compiled readers give, and whether that is what Python gives and what the general way gives."""
    arguments = (update, known.clocks, known.nesting, known.deletes, limits)
    expected, given = close_short(*arguments), compiled.close_short(*arguments)
    outcome.counts["compared"] += 1
    outcome.counts["taken" if expected is not None else "left to the general way"] += 1
    if not is_same(given, expected):
        outcome.failures.append(f"{update.hex()}: {given} in C, {expected} in Python")
    if given is not None:
        whole = _attempt(lambda: known.close_fully(update, limits))
        if given != whole:
            outcome.failures.append(f"{update.hex()}: {given} in C, {whole} the general way")
    compare_whole(compiled, known, update, limits, outcome)
    parsed, expected_parsed = (_attempt(partial(read, update, limits)) for read in (compiled.read_update, read_update))
    if repr(parsed) != repr(expected_parsed):
        outcome.failures.append(f"{update.hex()}: read as {parsed} in C, as {expected_parsed} in Python")


def compare_whole(compiled: Compiled, known: Known, update: bytes, limits: UpdateLimits, outcome: Outcome) -> bool:
    """Note whether the compiled way for whole updates gives what the general way gives; return whether it gave a part."""
    given = _attempt(lambda: compiled.close_whole(update, known.clocks, known.nesting, known.deletes, limits))
    outcome.counts["taken whole"] += isinstance(given, ClosedPart)
    if given is None:
        return False
    fully = _attempt(lambda: known.close_fully(update, limits))
    # Their words tell apart what merely is equal. Bytes of which nothing was cut are the same object.
    is_alike = given == fully and repr(given) == repr(fully)
    if isinstance(given, ClosedPart) and isinstance(fully, ClosedPart):
        is_alike = is_alike and (given.update is update) == (fully.update is update)
    if not is_alike:
        outcome.failures.append(f"{update.hex()}: {given} whole, {fully} the general way")
    return isinstance(given, ClosedPart)


def _attempt(read: Callable[[], object]) -> object:
    """Return what it gives, or the words and the code of its refusal."""
    try:
        return read()
    except ProtocolViolation as violation:
        return violation.reason, violation.code


def is_same(given: ClosedPart | None, expected: ClosedPart | None) -> bool:
    """Whether both are the same in value and in all types."""
    if given is None or expected is None:
        return given is expected
    return given.update is expected.update and repr(given) == repr(expected) and given == expected


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how many mutations to try."""
    parser.add_argument("--count", type=int, default=500_000, help="mutated updates")


def run(arguments: argparse.Namespace) -> int:
    """Build with the sanitizers, and have a process that loads them first make the comparison."""
    compiler = os.environ.get("CC", "gcc")
    libraries = [
        subprocess.check_output([compiler, f"-print-file-name={name}"], text=True, timeout=30).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",  # Python's own allocator would hide what lies beyond an object.
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps much until its end. Leaks are counted by a unit test.
    }
    with built(*SANITIZE) as library:
        words = [sys.executable, "-m", __name__, str(library), str(arguments.seed), str(arguments.count)]
        return subprocess.run(words, env=environment).returncode


def _run_sanitized(library: str, seed: int, count: int) -> int:
    started = time.monotonic()
    del os.environ["LD_PRELOAD"]  # Node does without.
    made = genuine_histories(seed, 40, 60)
    histories = [*(history.updates for history in made), *(history.updates for history in HISTORIES)]
    compiled = load(Path(library))
    outcome = play(compiled, histories, seed, count)
    whole = [EVERYTHING, *(history.merged for history in made)] * 10 + [
        update for updates in histories for update in updates
    ]
    reading = native_reading.play(compiled.read_update, whole, seed, count)
    for each in (reading, play_forged(compiled, seed, count // 5)):
        outcome.counts += each.counts
        outcome.failures += each.failures
    for failure in outcome.failures[:20]:
        print(failure)
    print(", ".join(f"{number} {name}" for name, number in outcome.counts.items()))
    print(f"{len(outcome.failures)} differences, nothing found by the sanitizers, {time.monotonic() - started:.0f} s")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(_run_sanitized(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
