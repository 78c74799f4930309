"""R4 with real sockets that stop reading: a short run of `make faults ARGS="slow-readers"`."""

from pathlib import Path

from tests.faults.slow_readers import Plan, broadcast, held
from tests.server_process import ServerProcess

PLAN = Plan(sockets=10, seconds=4, base_seconds=0.5, resume_seconds=1.5, stuck_seconds=2, rate=2_000_000, others=3)


async def test_R4_sockets_that_stop_reading_catch_up_or_are_closed_and_hold_up_nobody(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"stuck_socket_seconds": str(PLAN.stuck_seconds)}) as server:
        outcome = await broadcast(server, PLAN)
        assert "Traceback" not in server.output
    assert outcome.sent > 0
    assert held(PLAN, outcome), (outcome.converged, outcome.closed, outcome.others_whole, outcome.growth)
