"""Properties of the byte work that hold for any bytes and any history."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.closed_part import ClosedPart
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.state_vector import decode_state_vector
from constructure_sync.protocol.update_writer import collect_garbage, join_updates, split_update
from tests.unit.protocol.forger import Forger
from tests.unit.protocol.golden import EVERY_UPDATE, HISTORIES, NAMES, History
from tests.unit.protocol.views import load, shown


def outcome(known: Known, encoded: bytes, fully: bool = False) -> ClosedPart | str:
    try:
        return known.close_fully(encoded) if fully else known.close(encoded)
    except ProtocolViolation as violation:
        return violation.reason


def check_close(known: Known, encoded: bytes) -> ClosedPart | str:
    """Close one update both ways and check everything that must hold of the result."""
    before = known.copy()
    part = outcome(known, encoded)
    assert part == outcome(known, encoded, fully=True), "the fast way and the general way agree"
    assert known == before, "closing changes nothing"
    if isinstance(part, ClosedPart):
        assert part.update is encoded or part.update != encoded or part.is_empty, "the same bytes are the same object"
        again = known.close(part.update)
        assert again.update is part.update or part.is_empty, "a closed part is closed"
        assert not again.missing
        known.add(part)
        after = known.close(encoded)
        assert after.is_empty, "what was taken is known"
        assert bool(after.missing) == bool(part.missing)
    return part


def mutated(rng: random.Random, encoded: bytes) -> bytes:
    changed = bytearray(encoded)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(changed))
        rng.choice(
            (
                lambda place: changed.__setitem__(place, rng.randrange(256)),
                lambda place: changed.__setitem__(place, changed[place] ^ (1 << rng.randrange(8))),
                lambda place: changed.insert(place, rng.randrange(256)),
                lambda place: changed.__delitem__(slice(place, place + rng.randrange(1, 3))),
            )
        )(min(place, len(changed) - 1))
        if not changed:
            return b"\x00"
    return bytes(changed)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_closed_part_or_a_violation(encoded: bytes) -> None:
    check_close(Known(), encoded)


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_mutated_histories_give_closed_parts_or_violations(history: History) -> None:
    rng = random.Random(history.name)
    known = Known()
    taken = 0
    for encoded in history.updates:
        for _ in range(40):
            part = check_close(known.copy(), mutated(rng, encoded))
            taken += isinstance(part, ClosedPart) and not part.is_empty
        known.add(known.close(encoded))
    assert taken > 100, "some mutations must stay well-formed, or little was tested"


@pytest.mark.parametrize("seed", range(150))
def test_forged_updates_close_alike_both_ways(seed: int) -> None:
    forger = Forger(seed)
    known = Known()
    for _ in range(30):
        encoded = forger.update()
        check_close(known, encoded)
        check_close(known.copy(), mutated(forger.rng, encoded))


def rounds(updates: list[bytes], known: Known) -> Iterator[bytes]:
    """Offer all updates again and again until a round brings nothing new; give the parts taken."""
    news = True
    while news:
        news = False
        for encoded in updates:
            part = outcome(known, encoded)
            if isinstance(part, ClosedPart) and not part.is_empty:
                known.add(part)
                news = True
                yield part.update


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_any_order_ends_in_the_same(history: History, seed: int) -> None:
    rng = random.Random(seed)
    shuffled = rng.sample(history.updates, len(history.updates))
    known, in_order = Known(), Known()
    taken = list(rounds(shuffled, known))
    list(rounds(history.updates, in_order))
    assert known.clocks == in_order.clocks == decode_state_vector(history.vector)
    assert known.nesting == in_order.nesting
    for prefix in (len(taken) // 3, len(taken)):
        replayed = Known()
        for encoded in taken[:prefix]:
            part = replayed.close(encoded)
            assert not part.missing
            replayed.add(part)
        # yrs keeps pending structs out of its state vector, so equal vectors mean that nothing waits.
        assert decode_state_vector(load(taken[:prefix]).get_state()) == replayed.clocks


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("history", [h for h in HISTORIES if not h.emoji], ids=lambda history: history.name)
def test_joining_splitting_and_collecting_keep_the_content(history: History, seed: int) -> None:
    rng = random.Random(seed)
    known = Known()
    taken = list(rounds(rng.sample(history.updates, len(history.updates)) + history.states, known))
    cut = rng.randrange(len(taken))
    segments = join_updates(taken[:cut]) + taken[cut:]
    assert shown(segments) == shown([history.state])
    collected = [collect_garbage(segment, known.deletes) for segment in segments]
    assert shown(collected) == shown([history.state])
    before = Known()
    pieces = []
    for segment in collected:
        for piece in split_update(segment, before, rng.choice((64, 256, 4096))):
            part = before.close(piece)
            assert not part.missing
            before.add(part)
            pieces.append(piece)
    assert shown(pieces) == shown([history.state])
    assert before.clocks == known.clocks


@settings(max_examples=50)
@given(st.lists(st.sampled_from(EVERY_UPDATE), max_size=30))
def test_updates_of_any_histories_in_any_order_are_taken_or_wait(updates: list[bytes]) -> None:
    known = Known()
    taken = list(rounds(updates, known))
    replayed = Known()
    for encoded in join_updates(taken):
        part = replayed.close(encoded)
        assert not part.missing
        replayed.add(part)
    assert (replayed.clocks, replayed.deletes, replayed.nesting) == (known.clocks, known.deletes, known.nesting)
