"""Taking in foreign updates: all that integrates, in whatever order it comes, and a reason for the rest."""

from collections import Counter

import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.known import ClosedPart, Known, UpdateLimits
from constructure_sync.replica.intake import take_in
from tests.unit.protocol.updates import section, skip, text, update


def typed(count: int, client: int = 3) -> list[bytes]:
    """Return updates that each append one letter."""
    first = update(section(client, 0, text("a")))
    return [first, *(update(section(client, at, text("b", origin=(client, at - 1)))) for at in range(1, count))]


def known_of(*updates: bytes) -> Known:
    known = Known()
    for each in updates:
        part = known.close(each)
        assert not part.missing
        known.add(part)
    return known


@pytest.mark.parametrize("step", [1, -1, 7])
def test_updates_in_any_order_are_taken_whole(step: int) -> None:
    updates = typed(60)
    given = updates[::step] if abs(step) == 1 else [updates[at * step % 60] for at in range(60)]

    intake = take_in([], given, 1024)

    assert intake.left_out == ()
    assert known_of(*intake.pieces) == known_of(*updates)
    assert len(intake.pieces) == 1


def test_reversed_updates_do_not_take_a_round_each(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = typed(200)
    close, reads = Known.close, Counter[bytes]()

    def counting(known: Known, update: bytes, *limits: UpdateLimits) -> ClosedPart:
        reads[update] += 1
        return close(known, update, *limits)

    monkeypatch.setattr(Known, "close", counting)

    assert take_in([], updates[::-1], 1024).left_out == ()
    assert max(reads.values()) <= 3


def test_pieces_are_small_and_follow_on_what_is_stored() -> None:
    updates = [update(section(client, 0, text("x" * 90))) for client in range(1, 40)]

    intake = take_in(updates[:10], updates, 400)

    assert max(map(len, intake.pieces)) <= 400
    assert known_of(*updates[:10], *intake.pieces) == known_of(*updates)
    assert known_of(*intake.pieces).clocks.keys() == set(range(11, 40))


def test_only_the_closed_part_of_an_update_with_a_gap_is_taken() -> None:
    partly = update(section(3, 0, text("a"), skip(2), text("b", origin=(3, 2))), deletes=((3, 0, 1), (4, 0, 5)))

    intake = take_in([], [b"\x01\x00", partly], 1024)

    assert known_of(*intake.pieces).clocks == {3: 1}
    assert [left.place for left in intake.left_out] == [0, 1]
    assert "client 3 from clock 1, client 4 from clock 0" in intake.left_out[1].reason


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (bytes.fromhex("00000000000001000000000000"), "V2 format"),
        (b"\x1f\x8b\x08" + bytes(20), "compressed (gzip)"),
        (b"\x78\x9c" + bytes(20), "compressed (zlib)"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "compressed (zstd)"),
        (b"\x01\x01\x05", "more sections than it holds"),
    ],
)
def test_the_reason_tells_what_to_do(given: bytes, reason: str) -> None:
    (left,) = take_in([], [given], 1024).left_out

    assert reason in left.reason


def test_a_piece_beyond_the_limits_of_a_live_update_is_refused() -> None:
    subdocs = [update(section(client, 0, b"\x09\x01\x01t\x01g\x76\x00")) for client in range(1, 1100)]

    with pytest.raises(ProtocolViolation, match="subdocuments"):
        take_in([], subdocs, 256 * 1024)
    assert take_in([], subdocs, 8 * 1024).left_out == ()
