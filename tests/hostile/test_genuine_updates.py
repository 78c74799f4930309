"""What stock Yjs writes is taken: the strict reader raises no false alarm."""

from constructure_sync.protocol.known import Known
from tests.faults.genuine import genuine_histories

SEED = 20_260_101
HISTORIES = 60
STEPS = 70


def test_genuine_updates_are_all_taken_whole_and_in_order() -> None:
    taken = 0
    for history in genuine_histories(SEED, HISTORIES, STEPS):
        known = Known()
        for update in history.updates:
            part = known.close(update)
            assert part.missing == ()
            known.add(part)
            taken += 1
        assert known.clocks == history.vector
        for whole in (history.merged, *history.states):
            part = known.close(whole)
            assert part.missing == ()
            assert not part.adds_structs
            known.add(part)
    assert taken >= 3000
