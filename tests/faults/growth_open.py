"""Open one document as a server that has just started does, and print as JSON what that took: seconds and bytes.

`python -m tests.faults.growth_open DATA_DIR COURSE`
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from constructure_sync.observability import configure_logging
from constructure_sync.services import open_services
from constructure_sync.settings import Settings


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


async def measure(data_dir: Path, course: str) -> dict[str, float]:
    """Open the room of a course; return what it took."""
    async with open_services(Settings(data_dir=data_dir)) as services:
        document_id = await services.database.courses.document_id(course)
        assert document_id is not None
        before, started = resident(), time.monotonic()
        room = await services.rooms.open(document_id)
        return {
            "seconds": time.monotonic() - started,
            "memory": resident() - before,
            "history": room.history.size,
            "pieces": room.history.head - room.history.first,
        }


if __name__ == "__main__":
    configure_logging("WARNING")
    print(json.dumps(asyncio.run(measure(Path(sys.argv[1]), sys.argv[2]))))
