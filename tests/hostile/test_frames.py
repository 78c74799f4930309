"""Mutated messages and frames over many sockets at once: a short run of `make faults ARGS="frames"`."""

from pathlib import Path

from tests.faults.frames import attack
from tests.server_process import ServerProcess

COUNT = 1_000
LINES = 32


async def test_mutated_messages_and_frames_leave_the_server_alive_and_small(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"close_delay_seconds": "0"}) as server:
        outcome = await attack(server, seed=1, count=COUNT, lines=LINES)
    assert outcome.faults == []
    assert outcome.held
    assert outcome.sent == COUNT
    assert outcome.codes[4400] > COUNT // 4
