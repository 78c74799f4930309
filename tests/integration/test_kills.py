"""SIGKILL under load, in short; `make faults ARGS=kills` is the long run."""

from pathlib import Path

from tests.faults.kills import kill_loop


async def test_R1_no_acknowledged_edit_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    report = await kill_loop(tmp_path, kills=3, edits=600, seed=7)

    assert report.lost == ()
    assert report.faults == ()
    assert len(report.in_flight) == 3
    assert min(report.in_flight) > 0
    assert report.acknowledged >= 600
