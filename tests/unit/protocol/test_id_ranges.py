import pickle
import random

import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.id_ranges import IdRanges
from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.update_writer import delete_set_update
from tests.unit.protocol.updates import delete_set, uints


def clocks_of(parts: list[tuple[int, int]]) -> set[int]:
    return {clock for start, end in parts for clock in range(start, end)}


@pytest.mark.parametrize("seed", range(200))
def test_ranges_behave_like_a_set_of_clocks(seed: int) -> None:
    rng = random.Random(seed)
    ranges, expected = IdRanges(), set[int]()
    for _ in range(rng.randrange(1, 20)):
        start = rng.randrange(50)
        end = start + rng.randrange(10)
        ranges.add(7, start, end)
        expected |= set(range(start, end))
        asked = set(range(rng.randrange(60), rng.randrange(60)))
        low, high = (min(asked), max(asked) + 1) if asked else (5, 5)
        assert clocks_of([(a, b) for _, a, b in ranges]) == expected
        assert clocks_of(ranges.missing(7, low, high)) == asked - expected
        assert clocks_of(ranges.within(7, low, high)) == asked & expected
        assert ranges.covers(7, low, high) == (asked <= expected)
        if asked:
            assert ranges.disjoint(7, low, high) == (not asked & expected)
    bounds = [bound for _, start, end in ranges for bound in (start, end)]
    assert bounds == sorted(set(bounds)), "ranges neither touch nor overlap"
    assert IdRanges.decode(Reader(ranges.encode())) == ranges
    assert pickle.loads(pickle.dumps(ranges)) == ranges


@pytest.mark.parametrize("seed", range(50))
def test_what_is_not_covered_is_what_covers_denies(seed: int) -> None:
    rng = random.Random(seed)
    held = IdRanges((rng.randrange(3), start, start + rng.randrange(9)) for start in rng.choices(range(50), k=20))
    asked = [(rng.randrange(4), start, start + 1 + rng.randrange(4)) for start in rng.choices(range(60), k=50)]
    assert held.not_covered(asked) == [each for each in asked if not held.covers(*each)]


def test_merging_takes_both_and_copies_are_independent() -> None:
    one = IdRanges([(1, 0, 5), (2, 3, 4)])
    twin = one.copy()
    one.merge(IdRanges([(1, 4, 9), (3, 0, 1)]))
    assert list(one) == [(1, 0, 9), (2, 3, 4), (3, 0, 1)]
    assert list(twin) == [(1, 0, 5), (2, 3, 4)]
    assert len(one) == 3
    assert not IdRanges()


def test_an_unknown_client_has_nothing() -> None:
    ranges = IdRanges([(1, 0, 5)])
    assert ranges.missing(9, 2, 4) == [(2, 4)]
    assert ranges.within(9, 2, 4) == []
    assert not ranges.covers(9, 2, 4)
    assert ranges.disjoint(9, 2, 4)


def test_ranges_are_written_as_a_delete_only_update() -> None:
    assert delete_set_update(IdRanges([(1, 2, 5), (9, 0, 1)])) == b"\x00" + delete_set((9, 0, 1), (1, 2, 5))
    assert delete_set_update(IdRanges()) == b"\x00\x00"


@pytest.mark.parametrize(
    "encoded",
    [
        uints(2, 1, 1, 0, 1, 1, 1, 5, 1),
        uints(1, 1, 1, 0, 0),
        uints(1, 1, 1, 2**32 - 2, 2),
        uints(1, 1, 2**20),
        uints(2**30),
        uints(1, 1, 1, 0),
        b"\x01" + b"\xff" * 9 + b"\x01\x01\x00\x01",
    ],
    ids=["client twice", "empty range", "beyond 32 bits", "2^20 ranges", "2^30 clients", "cut off", "client 2^64-1"],
)
def test_a_hostile_delete_set_is_refused(encoded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        IdRanges.decode(Reader(encoded))


def test_too_many_ranges_are_too_large() -> None:
    encoded = delete_set(*((1, 2 * n, 2 * n + 1) for n in range(11)))
    with pytest.raises(ProtocolViolation) as refusal:
        IdRanges.decode(Reader(encoded), max_ranges=10)
    assert refusal.value.code == 4413
