"""What must hold at the end of a run: clients and a fresh reader of the log hold the same, and nothing acknowledged is lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.crowd import Crowd, TookTooLong
from tests.faults.log_check import Losses, check_log

SHOWN_LOSSES: Final = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run ended with.

    acknowledged: edits with a receipt. rows: updates saved. lost: edits with a receipt that are gone. faults: what else was wrong.
    late: what took too long, for a machine that does nothing else.
    """

    acknowledged: int
    rows: int
    lost: Sequence[str]
    faults: list[str]
    late: Sequence[str]

    @property
    def holds(self) -> bool:
        return not self.lost and not self.faults and not self.late

    def print(self) -> None:
        """Print it as lines of a report."""
        print(f"acknowledged edits           {self.acknowledged}, saved as {self.rows} updates")
        print(f"acknowledged and lost        {len(self.lost)} {' '.join(self.lost[:SHOWN_LOSSES])}")
        for fault in (*self.faults, *self.late):
            print(f"FAULT: {fault}")


async def judge(
    crowd: Crowd, database_url: str, seconds: float, *, faults: Sequence[str] = (), late: Sequence[str] = ()
) -> Verdict:
    """Wait until all hold the same, then compare them with what fresh processes read.

    seconds: to wait at most. faults, late: found before. The crowd is connected and writes no more.
    """
    found, lost, rows = list(faults), tuple[str, ...](), 0
    try:
        await crowd.settled(seconds)
    except TookTooLong as unequal:
        found.append(str(unequal))
    found += crowd.differences()
    found += [f"{client.name}: {fault}" for client in crowd.clients for fault in client.faults]
    acknowledged = crowd.acknowledged_edits()
    try:
        readings = await check_log(database_url, acknowledged)
    except Losses as losses:
        lost = losses.lost
        found += losses.faults
    else:
        rows = sum(reading.count for reading in readings if reading.kind == "raw")
        firsts = {course.id: clients[0] for course, clients in crowd.groups.items()}
        found += [
            f"the log of course {reading.course}, {reading.kind}, differs from {firsts[reading.course].name}"
            for reading in readings
            if reading.state != firsts[reading.course].state() or reading.latest != firsts[reading.course].content()[1]
        ]
    return Verdict(crowd.acknowledged, rows, lost, found, late)


def check_limit(what: str, seconds: Sequence[float], limit: float) -> list[str]:
    """Say so when any of the times is beyond the limit."""
    late = [each for each in seconds if each > limit]
    return [f"{what}: longer than {limit:.0f} s {len(late)} times, up to {max(late):.1f} s"] if late else []
