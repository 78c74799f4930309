"""Every test that takes `backend` runs over each of `BACKENDS`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.backends import Backend, MemoryBackend, SqlBackend

BACKENDS = ("memory", "sqlite")


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    made: Backend = MemoryBackend() if request.param == "memory" else await SqlBackend.sqlite(tmp_path)
    yield made
    await made.close()
