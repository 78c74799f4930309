"""Mutated updates through the strict reader: what it takes must harm neither pycrdt nor stock Yjs, now or at the next load."""

import argparse
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import Reader, var_bytes, write_var_uint
from constructure_sync.protocol.state_vector import decode_state_vector
from constructure_sync.protocol.update_writer import EMPTY_UPDATE, join_updates
from tests.faults import victim
from tests.faults.genuine import genuine_histories
from tests.faults.mutator import mutate
from tests.faults.node_process import NodeProcess
from tests.faults.victim import Victim
from tests.unit.protocol.golden import HISTORIES

BATCH: Final = 400
LARGEST_GENUINE: Final = 1500
PLACES_PER_HISTORY: Final = 8


@dataclass(slots=True)
class Outcome:
    """Counts, and what went wrong: (what, how the bytes came about)."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        self.counts += other.counts
        self.failures += other.failures


@dataclass(frozen=True, slots=True)
class Ground:
    """A genuine update and what was known when it came."""

    known: Known
    foundation: list[bytes]
    genuine: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """A part that the reader took. clocks: what is known with it."""

    ground: int
    mutated: bytes
    part: bytes
    clocks: dict[int, int]


def grounds(seed: int, histories: int) -> list[Ground]:
    """Genuine updates of all kinds, each on its own history; whole states upon nothing, too."""
    choices = random.Random(seed)
    made = genuine_histories(seed, histories, 60)
    found = [Ground(Known(), [], state) for history in made for state in (*history.states, history.merged)]
    found = [ground for ground in found if len(ground.genuine) <= LARGEST_GENUINE]
    for updates in [*(history.updates for history in made), *(history.updates for history in HISTORIES)]:
        for place in choices.sample(range(len(updates)), min(PLACES_PER_HISTORY, len(updates))):
            known = Known()
            for update in updates[:place]:
                known.add(known.close(update))
            found.append(Ground(known, join_updates(updates[:place]), updates[place]))
    with Victim([ground.foundation for ground in found]) as judge:
        # pycrdt cannot load its own snapshot of some genuine histories in which a surrogate pair was parted.
        bare = judge.ask([(place, EMPTY_UPDATE) for place in range(len(found))])
        whole = judge.ask([(place, ground.genuine) for place, ground in enumerate(found)])
    return [ground for ground, *fates in zip(found, bare, whole, strict=True) if fates == [victim.OK, victim.OK]]


class _Judges:
    """pycrdt in a process that may be lost, and stock Yjs."""

    def __init__(self, found: Sequence[Ground], victim_process: Victim, node: NodeProcess) -> None:
        self._found = found
        self._victim = victim_process
        self._node = node
        table = [write_var_uint(len(found))]
        for ground in found:
            table += (write_var_uint(len(ground.foundation)), *map(var_bytes, ground.foundation))
        node.ask(b"".join(table))

    def judge(self, accepted: Sequence[Accepted], outcome: Outcome) -> None:
        """Note what becomes of the accepted parts."""
        fates = self._victim.ask([(each.ground, each.part) for each in accepted])
        request = [write_var_uint(len(accepted))]
        for each in accepted:
            request += (write_var_uint(each.ground), var_bytes(each.part))
        reader = Reader(self._node.ask(b"".join(request)))
        for each, fate in zip(accepted, fates, strict=True):
            error, vector, is_parted = reader.read_var_string(), reader.read_var_bytes(), reader.read_var_uint()
            if fate == victim.RELOAD_FAILED and is_parted:
                # Known of pycrdt, genuine or not: its snapshot of such text is wrong. It is never stored nor served (R2).
                outcome.counts["with a parted surrogate pair, of which pycrdt's own snapshot is wrong"] += 1
            elif fate != victim.OK:
                self._blame(each, victim.NAMES[fate], outcome)
            if not error and decode_state_vector(vector) != each.clocks:
                error = "Yjs has other clocks than the reader"
            if error:
                self._blame(each, error, outcome)

    def _blame(self, each: Accepted, what: str, outcome: Outcome) -> None:
        outcome.counts[what.split(" |")[0]] += 1
        foundation = " + ".join(part.hex() for part in self._found[each.ground].foundation)
        outcome.failures.append(
            f"{what}: {each.mutated.hex()} (taken as {each.part.hex()}) upon {foundation or 'nothing'}"
        )


def play(seed: int, count: int, histories: int = 40) -> Outcome:
    """Mutate so many times and judge what the reader takes."""
    found = grounds(seed, histories)
    others = [ground.genuine for ground in found]
    choices = random.Random(seed)
    outcome = Outcome()
    accepted: list[Accepted] = []
    with Victim([ground.foundation for ground in found]) as victim_process, NodeProcess("poison.mjs") as node:
        judges = _Judges(found, victim_process, node)
        for _ in range(count):
            place = choices.randrange(len(found))
            taken = _close(found[place], place, mutate(found[place].genuine, others, choices), outcome)
            if taken is not None:
                accepted.append(taken)
            if len(accepted) >= BATCH:
                judges.judge(accepted, outcome)
                accepted = []
        if accepted:
            judges.judge(accepted, outcome)
    return outcome


def _close(ground: Ground, place: int, mutated: bytes, outcome: Outcome) -> Accepted | None:
    outcome.counts["mutated"] += 1
    try:
        part = ground.known.close(mutated)
    except ProtocolViolation:
        outcome.counts["refused"] += 1
        return None
    except Exception as error:
        outcome.counts["reader failed"] += 1
        outcome.failures.append(f"the reader failed with {error!r}: {mutated.hex()}")
        return None
    if part.is_empty:
        outcome.counts["empty"] += 1
        return None
    outcome.counts["accepted"] += 1
    clocks = ground.known.clocks | {client: end for client, _, end in part.ranges}
    return Accepted(place, mutated, part.update, clocks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how many mutations to try."""
    parser.add_argument("--count", type=int, default=500_000, help="mutated updates")
    parser.add_argument("--processes", type=int, default=2, help="how many try at once")
    parser.add_argument("--shown", type=int, default=20, help="failures printed with their bytes")


def run(arguments: argparse.Namespace) -> int:
    """Mutate, and print the counts and every failure with its bytes."""
    started = time.monotonic()
    share = 5_000
    jobs = [
        (arguments.seed * 100_003 + job, min(share, arguments.count - job * share))
        for job in range(-(-arguments.count // share))
    ]
    outcome = Outcome()
    with get_context("spawn").Pool(arguments.processes) as pool:
        for done, part in enumerate(pool.imap_unordered(_play, jobs), 1):
            outcome.add(part)
            if done % 20 == 0:
                print(f"{outcome.counts['mutated']} mutated, {time.monotonic() - started:.0f} s", flush=True)
    for failure in outcome.failures[: arguments.shown]:
        print(failure)
    print(", ".join(f"{count} {name}" for name, count in outcome.counts.items()))
    deaths, panics, reloads = (
        outcome.counts[victim.NAMES[fate]] for fate in (victim.DIED, victim.PANIC, victim.RELOAD_FAILED)
    )
    print(
        f"{deaths} deaths, {panics} panics, {reloads} reload failures, {len(outcome.failures)} failures of any kind, "
        f"{time.monotonic() - started:.0f} s"
    )
    return 1 if outcome.failures else 0


def _play(job: tuple[int, int]) -> Outcome:
    return play(*job)
