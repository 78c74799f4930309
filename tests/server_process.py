"""A real server in a process of its own: started, killed, started again on the same data and port, and asked over REST."""

import http.client
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SERVE: Final[Sequence[str]] = (sys.executable, "-m", "constructure_sync.cli", "serve")
READY: Final = "listening on http://"
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
REST_SECONDS: Final = 30.0
HOST: Final = "127.0.0.1"

Json = dict[str, object]


class RestError(Exception):
    """The server answered a REST call with an error status."""

    def __init__(self, call: str, status: int, body: str) -> None:
        super().__init__(f"{call}: {status} {body}")
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Account:
    """A registered user and the access token that speaks for it."""

    user_id: str
    name: str
    email: str
    password: str
    token: str


@dataclass(frozen=True, slots=True)
class Connect:
    """What a provider needs to open a course: `{url}/{course}?token=…`."""

    url: str
    token: str
    role: str
    lineage: str
    expires_in: float


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return cast(int, probe.getsockname()[1])


class ServerProcess:
    """One server on loopback. Everything it prints goes to `log`, over all its starts.

    settings: names without the `CONSTRUCTURE_` prefix, in lower case, to values (`{"keepalive_seconds": "0.5"}`).
    command, cwd: what runs, and where; this repository's server unless told otherwise.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = SERVE,
        cwd: Path = REPOSITORY,
    ) -> None:
        self._command = list(command)
        self._cwd = cwd
        self.port = free_port()
        self.data_dir = folder / "data"
        self.log = folder / "server.log"
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._names = itertools.count(1)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server; RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Processes

    def start(self) -> None:
        """Start, and return once the server says that it listens. Raises RuntimeError with its output otherwise."""
        ready = threading.Event()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._process = process
        self._reader = threading.Thread(target=self._copy_output, args=(process, ready), daemon=True)
        self._reader.start()
        ready.wait(START_SECONDS)
        if not ready.is_set() or process.poll() is not None:
            self.kill()
            raise RuntimeError(f"the server did not start:\n{self.output[-4000:]}")

    def kill(self) -> None:
        """SIGKILL: the server has no chance to flush anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and wait for the orderly end. Returns the exit status; 0 also when nothing ran."""
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        """SIGKILL, then start again on the same data and port."""
        self.kill()
        self.start()

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONSTRUCTURE_")}
        ours = {"host": HOST, "port": str(self.port), "data_dir": str(self.data_dir), **self._settings}
        return inherited | {f"CONSTRUCTURE_{name.upper()}": value for name, value in ours.items()}

    def _copy_output(self, process: "subprocess.Popen[str]", ready: threading.Event) -> None:
        """Copy what the server prints to the log; `ready` is also set when the output ends, so nobody waits in vain."""
        assert process.stdout is not None
        with self.log.open("a", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if line.startswith(READY):
                    ready.set()
        process.stdout.close()
        process.wait()
        ready.set()

    def _end(self, sign: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(sign)
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait(STOP_SECONDS)
        if self._reader is not None:
            self._reader.join(STOP_SECONDS)
        return status

    # REST

    def call(self, method: str, path: str, body: object = None, token: str | None = None) -> Json:
        """Call the REST layer with JSON and return its JSON answer ({} for an empty one). Raises RestError."""
        headers = {"Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=REST_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = response.read().decode()
        finally:
            connection.close()
        if response.status >= 400:
            raise RestError(f"{method} {path}", response.status, answer)
        return cast(Json, json.loads(answer)) if answer else {}

    def register(self, name: str) -> Account:
        """Register a new user; the e-mail address is made up and unique."""
        email = f"{name}.{next(self._names)}.{secrets.token_hex(4)}@example.org"
        password = secrets.token_urlsafe(18)
        answer = self.call("POST", "/api/v1/auth/register", {"email": email, "name": name, "password": password})
        user = cast(Json, answer["user"])
        return Account(str(user["id"]), name, email, password, str(answer["access_token"]))

    def create_course(self, account: Account, title: str = "A course") -> str:
        """Create a course owned by `account` and return its id."""
        return str(self.call("POST", "/api/v1/courses", {"title": title}, account.token)["id"])

    def add_member(self, owner: Account, course: str, member: Account, role: str) -> None:
        """Give `member` a role (`editor commenter viewer`) in the owner's course."""
        self.call("PUT", f"/api/v1/courses/{course}/members/{member.user_id}", {"role": role}, owner.token)

    def connect(self, account: Account, course: str) -> Connect:
        """Ask for a connect token of the course."""
        answer = self.call("POST", f"/api/v1/courses/{course}/connect", {}, account.token)
        expires_in = cast(float, answer["expires_in"])
        return Connect(
            str(answer["url"]), str(answer["token"]), str(answer["role"]), str(answer["lineage"]), expires_in
        )
