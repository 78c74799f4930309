"""Mutated updates through the compiled strict reader beside the same reader in Python: equal readings, equal refusals."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.readers import ReadUpdate
from constructure_sync.protocol.update_reader import (
    DEFAULT_LIMITS,
    STORED_LIMITS,
    ParsedUpdate,
    UpdateLimits,
    read_update,
)
from tests.faults.mutator import mutate

NARROW: Final = UpdateLimits(
    max_structs=4, max_clients=2, max_delete_ranges=2, max_subdocs=1, max_depth=2, max_any_depth=1
)
LIMITS: Final = (DEFAULT_LIMITS, DEFAULT_LIMITS, STORED_LIMITS, NARROW)
RANDOM_SHARE: Final = 0.05


@dataclass(slots=True)
class Outcome:
    """Counts, and what differed."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def play(compiled: ReadUpdate, updates: Sequence[bytes], seed: int, count: int) -> Outcome:
    """Compare the readers over so many mutations of these updates, and random bytes."""
    choices = random.Random(seed)
    outcome = Outcome()
    for _ in range(count):
        is_random = choices.random() < RANDOM_SHARE
        update = (
            choices.randbytes(choices.randrange(64)) if is_random else mutate(choices.choice(updates), updates, choices)
        )
        compare(compiled, update, choices.choice(LIMITS), outcome)
    return outcome


def compare(compiled: ReadUpdate, update: bytes, limits: UpdateLimits, outcome: Outcome) -> None:
    """Note what the compiled reader says of the bytes, and whether Python says the same."""
    expected, given = said(read_update, update, limits), said(compiled, update, limits)
    outcome.counts["read" if isinstance(expected, ParsedUpdate) else "refused"] += 1
    # Their words tell apart what merely is equal: a named tuple and a tuple, True and 1.
    if given != expected or repr(given) != repr(expected):
        outcome.failures.append(f"{update.hex()} within {limits}: {given} in C, {expected} in Python")


def said(reader: ReadUpdate, update: bytes, limits: UpdateLimits) -> object:
    """Return what was read, or what the violation says."""
    try:
        return reader(update, limits)
    except ProtocolViolation as violation:
        return str(violation), violation.reason, violation.code
