"""A course that thousands have edited: what is joined of their updates may hold more than any one update may."""

from constructure_sync.protocol.known import Known, UpdateLimits
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, STORED_LIMITS
from constructure_sync.replica.jobs import StoredPieces, compact, compact_tail, fold, replay
from constructure_sync.replica.reconcile import reconcile
from tests.unit.protocol.updates import section, text, update

CLIENTS = DEFAULT_LIMITS.max_clients + 1
UPDATES = [update(section(client, 0, text("a"))) for client in range(1, CLIENTS + 1)]
MEBIBYTE = 1024 * 1024


def known_of(updates: list[bytes], limits: UpdateLimits = STORED_LIMITS) -> Known:
    known = Known()
    for each in updates:
        known.add(known.close(each, limits))
    return known


def test_the_joined_updates_of_very_many_clients_are_folded_and_compacted() -> None:
    (folded,) = fold(UPDATES, MEBIBYTE)
    ((piece, summary),) = compact(UPDATES, MEBIBYTE)

    assert len(folded.ranges) == CLIENTS
    assert known_of([piece]) == known_of(UPDATES, DEFAULT_LIMITS)

    more = [update(section(client, 0, text("b"))) for client in range(CLIENTS + 1, CLIENTS + 3)]
    compacted = compact_tail([StoredPieces([piece], [summary])], more, 0.0, MEBIBYTE)
    assert compacted.kept == 0
    assert len(known_of([each for each, _ in compacted.pieces]).clocks) == CLIENTS + 2


def test_a_room_takes_such_a_piece_from_the_log_and_gives_it_to_one_that_went_back() -> None:
    ((piece, _),) = compact(UPDATES, MEBIBYTE)

    known, folded = replay([], [piece, piece], MEBIBYTE)
    assert len(known.clocks) == CLIENTS
    assert [len(each.ranges) for each in folded] == [CLIENTS]

    reconciled = reconcile(known_of([piece]), [piece], UPDATES[:5])
    ((index, part),) = reconciled.ours
    assert index == 0
    assert len(part.ranges) == CLIENTS - 5
