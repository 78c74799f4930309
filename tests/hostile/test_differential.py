"""Random histories of stock Yjs clients end with the same content everywhere; found differences are kept as named cases."""

import random

from constructure_sync.protocol.state_vector import encode_state_vector
from constructure_sync.protocol.update_reader import read_update
from tests.faults.differential import play
from tests.faults.offline_server import OPEN, STEP1, STEP2, UPDATE, OfflineServer
from tests.unit.protocol.updates import section, text, update

HISTORIES = 200
SEED = 1


def test_random_histories_end_with_the_same_content_everywhere() -> None:
    outcome = play(range(SEED, SEED + HISTORIES))
    assert outcome.failures == []
    assert outcome.histories == HISTORIES
    assert outcome.taken > 5 * HISTORIES
    assert outcome.cut > 0
    assert outcome.crashes > HISTORIES
    assert outcome.compactions > HISTORIES


def test_R12_deletes_in_a_compacted_log_reach_a_client_that_knows_only_the_beginning() -> None:
    server = OfflineServer(random.Random(1))
    server.tick([(0, OPEN, b""), (0, UPDATE, update(section(5, 0, text("x" * 40))))])
    server.tick([(0, UPDATE, update(deletes=((5, 0, 40),))), (0, UPDATE, update(section(5, 40, text("!", (5, 39)))))])
    server.compact()
    server.restart()
    sent = server.tick([(1, OPEN, b""), (1, STEP1, encode_state_vector({5: 40}))])
    deletes = [
        parts.deletes for _, kind, payload in sent if kind in (UPDATE, STEP2) for parts in [read_update(payload)]
    ]
    assert [(5, 0, 40)] in deletes
