"""The servers under load: real processes on loopback with durable logs, as they are started from a clone."""

import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import psutil  # type: ignore[import-untyped]

from tests.cluster import SETTINGS, Cluster, Course
from tests.postgres import Postgres
from tests.server_process import ServerProcess
from tests.valkey import Valkey

SERVER_CORE: Final = 0
_REST_SECONDS, _LOOK_SECONDS, _AT_REST = 20.0, 0.5, 0.03  # the last: share of a core
BACKENDS: Final = {"PostgreSQL": "postgres", "Valkey": "valkey-server"}  # programs
MIB: Final = 1024 * 1024


class Process(Protocol):
    """What runs."""

    @property
    def pid(self) -> int: ...


class Loadable(Protocol):
    """What can be loaded: the processes of a server, and where its rooms are. echoes: see Generator."""

    @property
    def instances(self) -> Sequence[Process]: ...

    @property
    def echoes(self) -> bool: ...

    def url(self, room: int, instance: int = 0) -> str:
        """Return where a client syncs a room."""
        ...

    def urls(self) -> list[str]:
        """Return where fresh clients sync, by room."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Instances that run, the first one on a core of its own, and courses to edit."""

    instances: Sequence[ServerProcess]
    courses: Sequence[Course]
    echoes: bool = False

    @property
    def server(self) -> ServerProcess:
        return self.instances[0]

    def url(self, room: int, instance: int = 0) -> str:
        """Return where a client syncs a course."""
        return self.courses[room].url(self.instances[instance].port)

    def urls(self) -> list[str]:
        """Return where fresh clients sync, by course."""
        return [self.url(course) for course in range(len(self.courses))]


World = Callable[[int], contextlib.AbstractContextManager[Loadable]]
"""Starts a server with so many rooms."""


@contextlib.contextmanager
def embedded(courses: int, **settings: str) -> Iterator[Target]:
    """Yield a server with SQLite (`synchronous=FULL`), on one core with all its worker processes. settings: as of ServerProcess."""
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder), {**SETTINGS, **settings}) as server:
        pin(server)
        yield Target([server], open_courses(server, courses))


@contextlib.contextmanager
def scaled(courses: int, instances: int = 1) -> Iterator[Target]:
    """Yield instances over PostgreSQL and Valkey. A single one is on a core of its own; two are wherever the kernel puts them."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres, valkey = stack.enter_context(Postgres()), stack.enter_context(Valkey())
        cluster = stack.enter_context(Cluster(folder, postgres.url, [valkey.url] * instances))
        if instances == 1:
            pin(cluster.instances[0])
        yield Target(cluster.instances, cluster.open_courses(courses))


def open_courses(server: ServerProcess, count: int) -> list[Course]:
    """Create courses of a new account."""
    account = server.register("owner")
    ids = [server.create_course(account, f"Course {number}") for number in range(1, count + 1)]
    return [Course(course, server.connect(account, course).token) for course in ids]


def pin(server: Process) -> None:
    """Put a server with its threads and worker processes on one core, and everything else of ours on the others."""
    cores = os.sched_getaffinity(0)
    if len(cores | {SERVER_CORE}) < 2:
        return
    for process in _family(server.pid):
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {SERVER_CORE})
    os.sched_setaffinity(0, (cores | {1}) - {SERVER_CORE})


def unpin() -> None:
    """Let this process run on all cores, so that what it starts does too."""
    os.sched_setaffinity(0, set(range(os.cpu_count() or 1)))


def cpu_seconds(server: Process) -> tuple[float, float]:
    """Return the processor time so far of the serving process and of its worker processes."""
    serving, *workers = (_thread_seconds(process.pid) for process in _family(server.pid))
    return serving, sum(workers)


def backend_seconds() -> dict[str, float]:
    """Return the processor time so far of PostgreSQL and Valkey, with their own children, where they run for us."""
    children = {process.name(): process.pid for process in psutil.Process().children()}
    return {
        name: sum(_thread_seconds(process.pid) for process in _family(children[program]))
        for name, program in BACKENDS.items()
        if program in children
    }


def rest(*servers: Process) -> None:
    """Wait until servers have nothing to do: what they start, fold and derive after their first edits is not measured."""
    deadline = time.monotonic() + _REST_SECONDS
    busy = 1.0
    while busy > _AT_REST and time.monotonic() < deadline:
        before = sum(sum(cpu_seconds(server)) for server in servers)
        time.sleep(_LOOK_SECONDS)
        busy = (sum(sum(cpu_seconds(server)) for server in servers) - before) / _LOOK_SECONDS


def resident(server: Process) -> int:
    """Return the bytes of memory that the serving process holds, without its worker processes."""
    return int(psutil.Process(server.pid).memory_info().rss)


def allow_many_sockets() -> None:
    """Raise the limit of open files as far as it goes; the servers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _thread_seconds(pid: int) -> float:
    total = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(stat.read_text().split()[0])
    return total / 1e9


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
