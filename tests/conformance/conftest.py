"""Fixtures: a real server, a Node process with stock clients, and a classroom that joins them."""

from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from tests.conformance.classroom import Classroom
from tests.conformance.node_client import NodeDriver
from tests.server_process import Account, ServerProcess

SHOWN_CHARACTERS = 6_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on its defaults. Modules that kill or tune it define a `server` of their own."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
async def driver() -> AsyncIterator[NodeDriver]:
    running = NodeDriver()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(scope="session")
def owners() -> dict[Path, Account]:
    """One account per server, so that tests do not spend their time on password hashing."""
    return {}


@pytest.fixture
async def classroom(server: ServerProcess, driver: NodeDriver, owners: dict[Path, Account]) -> AsyncIterator[Classroom]:
    if server.data_dir not in owners:
        owners[server.data_dir] = server.register("owner")
    room = Classroom(server, driver, owners[server.data_dir])
    yield room
    await room.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the server printed when a test fails."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            if isinstance(value, ServerProcess):
                report.sections.append((f"output of the server ({name})", value.output[-SHOWN_CHARACTERS:]))
    return report
