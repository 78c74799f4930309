"""Several workers on one machine: one port, one page of metrics, replaced without a refused request, ended with their parent."""

import asyncio
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.server_process import SERVE, ServerProcess
from tests.valkey import Valkey

DEADLINE = 30.0
SOCKETS = 40


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey() as running:
        yield running


class Workers(ServerProcess):
    """A server of two workers."""

    def __init__(self, folder: Path, valkey: Valkey) -> None:
        super().__init__(
            folder, {"workers": "2", "bus_url": valkey.url, "drain_seconds": "0.5", "replica_workers": "1"}
        )

    def workers(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.pid).children() if "run_worker" in command(child)]

    def metrics_folder(self) -> Path:
        return Path(self.workers()[0].cmdline()[-2])

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=DEADLINE) as answer:
            return str(answer.read().decode())

    def metric(self, sample: str) -> float:
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(f"{sample} ")]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def open_sockets(self) -> float:
        return self.metric('websocket_connections_active{family="sync"}')


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""  # it has just ended


@pytest.fixture
def server(tmp_path: Path, valkey: Valkey) -> Iterator[Workers]:
    with Workers(tmp_path, valkey) as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def classroom(server: Workers) -> AsyncIterator[list[ClientConnection]]:
    """A course with many sockets."""
    account = server.register("ada")
    access = server.connect(account, server.create_course(account))
    course = server.call("GET", "/api/v1/courses", token=account.token)["items"]
    assert isinstance(course, list)
    url = f"{access.url}/{course[0]['id']}?token={access.token}"
    sockets = [await connect(url) for _ in range(SOCKETS)]
    try:
        yield sockets
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets))


def is_open(socket: ClientConnection) -> bool:
    return socket.close_code is None


async def test_workers_share_the_port_and_a_dead_one_is_replaced(server: Workers) -> None:
    assert server.output.count("listening on") == 1
    async with classroom(server) as sockets:
        await until(lambda: server.open_sockets() == SOCKETS)
        dead = server.workers()[0]
        dead.kill()
        await until(lambda: len(server.workers()) == 2 and dead not in server.workers())
        await until(lambda: server.open_sockets() < SOCKETS)
        left = server.open_sockets()
        assert 0 < left < SOCKETS
        await until(lambda: sum(map(is_open, sockets)) == left)
    folder = server.metrics_folder()
    assert any(folder.iterdir())
    assert not any(folder.glob(f"gauge_*_{dead.pid}.db"))
    assert server.stop() == 0
    assert not folder.exists()
    assert server.output.count("listening on") == 1


async def test_a_rolling_restart_keeps_the_port_answered_and_sends_the_sockets_away(server: Workers) -> None:
    before = set(server.workers())
    failures: list[str] = []
    asked = 0

    async def ask() -> None:
        nonlocal asked
        while True:
            try:
                # Not /ready: a worker that was reached in the moment before it stopped listening says truthfully that it stops.
                await asyncio.to_thread(server.get, "/health")
            except (urllib.error.URLError, OSError) as error:
                failures.append(repr(error))
            asked += 1

    async with classroom(server) as sockets:
        asking = asyncio.create_task(ask())
        psutil.Process(server.pid).send_signal(signal.SIGHUP)
        codes = await asyncio.wait_for(asyncio.gather(*(closed(socket) for socket in sockets)), DEADLINE)
        await until(lambda: len(server.workers()) == 2 and before.isdisjoint(server.workers()))
        asking.cancel()
    assert set(codes) == {1012}
    # The kernel resets a connection that a worker has not accepted when it stops listening: one at a time asks here.
    assert len(failures) <= len(before)
    assert asked > 10
    assert server.stop() == 0


async def closed(socket: ClientConnection) -> int | None:
    with suppress(ConnectionClosed):
        async for _ in socket:
            pass
    return socket.close_code


async def test_workers_end_with_their_parent(server: Workers) -> None:
    workers = server.workers()
    assert len(workers) == 2
    server.kill()
    await until(lambda: not any(worker.is_running() for worker in workers))


@pytest.mark.parametrize("asked", [("--workers", "2"), ()])
def test_without_a_bus_several_workers_are_refused(tmp_path: Path, asked: tuple[str, ...]) -> None:
    settings = {"CONSTRUCTURE_DATA_DIR": str(tmp_path), "CONSTRUCTURE_WORKERS": "1" if asked else "2"}
    done = subprocess.run([*SERVE, *asked], env=settings, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("CONSTRUCTURE_BUS_URL: 2 workers need a bus")
    assert not any(tmp_path.iterdir())


def test_what_a_worker_cannot_start_for_is_said_once_more_at_the_end(tmp_path: Path, valkey: Valkey) -> None:
    (tmp_path / "secret.key").write_text("short")
    settings = {"CONSTRUCTURE_DATA_DIR": str(tmp_path), "CONSTRUCTURE_BUS_URL": valkey.url, "CONSTRUCTURE_PORT": "0"}
    done = subprocess.run(
        [*SERVE, "--workers", "2"], env=settings, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "CONSTRUCTURE_SECRET_KEY" in done.stderr.splitlines()[-1]


def test_a_port_that_another_server_has_is_not_shared(server: Workers, tmp_path: Path, valkey: Valkey) -> None:
    settings = {
        "CONSTRUCTURE_DATA_DIR": str(tmp_path / "other"),
        "CONSTRUCTURE_BUS_URL": valkey.url,
        "CONSTRUCTURE_PORT": str(server.port),
    }
    done = subprocess.run(
        [*SERVE, "--workers", "2"], env=settings, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on 127.0.0.1:{server.port}" in done.stderr
