"""Several instances that share one database and one bus, each a real server in a process of its own."""

import re
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.server_process import HOST, REPOSITORY, REST_SECONDS, ServerProcess

MIGRATE_SECONDS: Final = 60.0
SETTINGS: Final[Mapping[str, str]] = {
    "log_level": "WARNING",
    "replica_workers": "1",
    "max_connections_per_user": "10000",
    "max_connections_per_address": "10000",
}


@dataclass(frozen=True, slots=True)
class Course:
    """A course and a token that opens it for writing, on any instance."""

    id: str
    token: str

    def url(self, port: int) -> str:
        """Return where a client syncs it through this loopback port, asking for receipts."""
        return f"ws://{HOST}:{port}/sync/{self.id}?token={self.token}&ack=seq"


class Cluster:
    """`count` instances on one database and one bus; a context manager that migrates the database and starts them.

    settings: as of ServerProcess, for all of them. bus_urls: one for each instance, so that each may have a line of its own.
    """

    def __init__(
        self, folder: Path, database_url: str, bus_urls: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> None:
        self.database_url = database_url
        shared = {"database_url": database_url, "secret_key": secrets.token_urlsafe(48), **SETTINGS, **(settings or {})}
        self.instances = tuple(
            ServerProcess(folder / f"instance{number}", {**shared, "bus_url": bus_url})
            for number, bus_url in enumerate(bus_urls, 1)
        )

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(instance.port for instance in self.instances)

    def __enter__(self) -> Self:
        migrate(self.database_url)
        try:
            self._all(ServerProcess.start)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all(ServerProcess.stop)

    def kill(self) -> None:
        """SIGKILL all instances that run."""
        self._all(ServerProcess.kill)

    def output(self, characters: int = 4_000) -> str:
        """Return the end of what each instance has printed."""
        return "\n".join(f"--- {each.data_dir.parent.name}\n{each.output[-characters:]}" for each in self.instances)

    def open_courses(self, count: int) -> tuple[Course, ...]:
        """Create courses of one new account. Their tokens last an hour."""
        first = self.instances[0]
        account = first.register("owner")
        ids = [first.create_course(account, f"Course {number}") for number in range(1, count + 1)]
        return tuple(Course(course, first.connect(account, course).token) for course in ids)

    def _all(self, action: Callable[[ServerProcess], object]) -> None:
        with ThreadPoolExecutor(len(self.instances)) as threads:
            for each in [threads.submit(action, instance) for instance in self.instances]:
                each.result()


def migrate(database_url: str) -> None:
    """Bring a database to the present schema, as an operator does. Raises RuntimeError with what the command printed."""
    done = subprocess.run(
        [sys.executable, "-m", "constructure_sync.cli", "migrate"],
        cwd=REPOSITORY,
        env={"CONSTRUCTURE_DATABASE_URL": database_url, "CONSTRUCTURE_SECRET_KEY": secrets.token_urlsafe(48)},
        capture_output=True,
        text=True,
        timeout=MIGRATE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the database cannot be migrated:\n{done.stdout}{done.stderr}")


def metric(instance: ServerProcess, name: str) -> float:
    """Return a metric's value, summed over its labels; `name` may hold one label, as in `rooms{state="live"}`.

    0 where the instance has not counted anything yet.
    """
    with urllib.request.urlopen(f"{instance.url}/metrics", timeout=REST_SECONDS) as answer:
        page = answer.read().decode()
    return sum(_values(page, name))


def _values(page: str, name: str) -> Iterable[float]:
    pattern = re.compile(re.escape(name) + (r" " if "{" in name else r"(?:\{[^}]*\})? ") + r"(\S+)")
    for line in page.splitlines():
        found = pattern.fullmatch(line)
        if found is not None:
            yield float(found[1])
