"""Several workers on one machine: processes that share a port, kept alive and replaced one after another by their parent.

Each worker is an instance of its own; they find one another over the bus like instances on several machines. The kernel spreads
connections over them (SO_REUSEPORT). Parent and worker share a line, a pair of sockets: the worker says `ready` or why it cannot
start, the parent says `retire`, and a worker whose parent is gone ends as on SIGTERM.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from constructure_sync.errors import ConstructureError
from constructure_sync.settings import PREFIX, Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from constructure_sync.transport.server import DrainingServer

Result = TypeVar("Result")

METRICS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_WORKER: Final = "from constructure_sync.supervisor import run_worker; run_worker()"
_READY: Final = "ready"
_RETIRE: Final = b"retire\n"
_UNUSABLE: Final = 2
_WORDS_BYTES: Final = 4096


class WorkersFailed(ConstructureError):
    """The workers cannot be kept alive; the message says why, in the worker's own words where it had any."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, and a count.

    start: until a worker is ready. stop: until it has ended, then it is killed. first_delay, max_delay: before it is replaced.
    lasting: one that served for so long did not die at its start. attempts: deaths at the start in a row; then all is given up.
    """

    start: float = 90.0
    stop: float = 60.0
    lasting: float = 5.0
    attempts: int = 5
    first_delay: float = 0.2
    max_delay: float = 5.0


@dataclass(eq=False, slots=True)
class _Worker:
    """One process. started: True once it is ready, False when it ended before; words: why it says that it cannot start."""

    number: int
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    started: asyncio.Future[bool]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ready_at: float | None = None
    words: str = ""

    def signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """Keeps `count` workers alive until it is told to stop.

    command: starts a worker; the number of its end of the line, the folder of metrics and the port follow. announce: called once,
    when all are ready.
    """

    def __init__(
        self, count: int, command: Sequence[str], port: int, folder: Path, announce: Callable[[], None], pace: Pace
    ) -> None:
        self._count = count
        self._command = command
        self._port = port
        self._folder = folder
        self._announce = announce
        self._pace = pace
        self._workers: dict[int, _Worker] = {}
        self._living: set[_Worker] = set()
        self._attending: set[asyncio.Task[Any]] = set()
        self._changing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()
        self._roll_asked = asyncio.Event()
        self._is_clean = True

    async def run(self) -> int:
        """Return the exit status: 0 when every worker ended in order after a signal. Raises WorkersFailed."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self.stop, each)
        loop.add_signal_handler(signal.SIGHUP, self._roll_asked.set)
        rolling = loop.create_task(self._roll(), name="rolling restart")
        try:
            async with asyncio.TaskGroup() as keepers:
                # The first alone: it brings the database to this version's schema.
                first = await self._fill(0)
                if first is not None:
                    await self._starts(first)
                for number in range(self._count):
                    keepers.create_task(self._keep(number), name=f"worker {number}")
                keepers.create_task(self._announce_all(), name="announcement")
        except* WorkersFailed as failures:
            raise failures.exceptions[0] from None
        finally:
            rolling.cancel()
            if not self._stopping.is_set():
                self.stop(signal.SIGTERM)
            while self._attending:
                await asyncio.gather(rolling, *self._attending, return_exceptions=True)
            for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(each)
        return 0 if self._is_clean else 1

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on to every worker; whoever has not ended in time is killed."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._news.set()
            asyncio.get_running_loop().call_later(self._pace.stop, self._kill)
        for worker in self._living:
            worker.signal(number)

    def _kill(self) -> None:
        for worker in self._living:
            _log("worker_killed", worker)
            worker.signal(signal.SIGKILL)

    # ------------------------------------------------------------------ keeping them alive

    async def _keep(self, number: int) -> None:
        deaths = 0
        while not self._stopping.is_set():
            worker = await self._fill(number)
            if worker is None:
                break
            if not await self._starts(worker):
                worker.signal(signal.SIGKILL)
            await worker.ended.wait()
            if self._stopping.is_set():
                break
            if self._workers.get(number) is not worker:
                continue  # replaced
            del self._workers[number]
            deaths = 1 if self._has_lasted(worker) else deaths + 1
            _log("worker_died", worker, deaths=deaths)
            if deaths >= self._pace.attempts or (worker.process.returncode == _UNUSABLE and worker.ready_at is None):
                raise WorkersFailed(_last_words(worker, deaths))
            await self._pause(min(self._pace.first_delay * 2 ** (deaths - 1), self._pace.max_delay))

    def _has_lasted(self, worker: _Worker) -> bool:
        return worker.ready_at is not None and _now() - worker.ready_at >= self._pace.lasting

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _announce_all(self) -> None:
        while not self._stopping.is_set():
            workers = list(self._workers.values())
            if len(workers) == self._count and all(worker.ready_at is not None for worker in workers):
                self._announce()
                return
            self._news.clear()
            await self._news.wait()

    async def _starts(self, worker: _Worker) -> bool:
        """Return whether the worker becomes ready in time."""
        await asyncio.wait([worker.started], timeout=self._pace.start)
        return worker.started.done() and worker.started.result()

    # ------------------------------------------------------------------ one process

    async def _fill(self, number: int) -> _Worker | None:
        """Return the worker of this number, started if need be; None when it is no longer to be started."""
        async with self._changing:
            if number not in self._workers and not self._stopping.is_set():
                self._workers[number] = await self._spawn(number)
            return self._workers.get(number)

    async def _spawn(self, number: int) -> _Worker:
        # To its end even if the caller is cancelled: nobody would know of the process.
        return await asyncio.shield(self._own(self._start(number), f"start worker {number}"))

    def _own(self, work: Coroutine[None, None, Result], name: str) -> asyncio.Task[Result]:
        task = asyncio.create_task(work, name=name)
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)
        return task

    async def _start(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            end = str(theirs.fileno())
            # A group of its own: Ctrl-C reaches the parent, which passes it on, and not both.
            process = await asyncio.create_subprocess_exec(
                *self._command, end, str(self._folder), str(self._port), pass_fds=[theirs.fileno()], process_group=0
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_WORDS_BYTES)
        worker = _Worker(number, process, reader, writer, asyncio.get_running_loop().create_future())
        self._living.add(worker)
        if self._stopping.is_set():
            worker.signal(signal.SIGTERM)
        self._own(self._attend(worker), f"line to worker {number}")
        return worker

    async def _attend(self, worker: _Worker) -> None:
        """Hear what a worker says, and see to its end."""
        from prometheus_client.multiprocess import mark_process_dead

        with suppress(ConnectionError):
            while said := (await worker.reader.read(_WORDS_BYTES)).decode(errors="replace"):
                if said == _READY and not worker.started.done():
                    worker.ready_at = _now()
                    worker.started.set_result(True)
                    self._news.set()
                else:
                    worker.words = said
        status = await worker.process.wait()
        worker.writer.close()
        self._living.discard(worker)
        mark_process_dead(worker.process.pid, str(self._folder))  # type: ignore[no-untyped-call]
        # Before it is ready, and when it is all but gone, a process dies of the signal that ends it; that is no fault.
        is_in_order = status in (0, -signal.SIGTERM, -signal.SIGINT) or worker.ready_at is None
        self._is_clean = self._is_clean and (is_in_order or not self._stopping.is_set())
        if not worker.started.done():
            worker.started.set_result(False)
        worker.ended.set()

    # ------------------------------------------------------------------ rolling restart

    async def _roll(self) -> None:
        """On every SIGHUP replace the workers one after another: the new one first, then the old one is drained."""
        while True:
            await self._roll_asked.wait()
            self._roll_asked.clear()
            for number in range(self._count):
                try:
                    if not await self._replace(number):
                        break
                except OSError as error:  # no process can be started just now: those that run go on
                    _tell_not_replaced(number, error)
                    break

    async def _replace(self, number: int) -> bool:
        async with self._changing:
            if self._stopping.is_set():
                return False
            new = await self._spawn(number)
            if not await self._starts(new):
                new.signal(signal.SIGKILL)
                _log("worker_not_replaced", new)
                return False
            old = self._workers.get(number)
            self._workers[number] = new
        if old is not None:
            old.writer.write(_RETIRE)
            try:
                async with asyncio.timeout(self._pace.stop):
                    await old.ended.wait()
            except TimeoutError:
                _log("worker_killed", old)
                old.signal(signal.SIGKILL)
        return True


def _last_words(worker: _Worker, deaths: int) -> str:
    times = "at its start" if deaths == 1 else f"{deaths} times in a row, each time soon after its start"
    why = worker.words or f"exit status {worker.process.returncode}; the log above says more"
    return f"a worker ended {times}: {why}"


def _now() -> float:
    return asyncio.get_running_loop().time()


def _log(event: str, worker: _Worker, **fields: int) -> None:
    from constructure_sync.observability import get_logger

    status = worker.process.returncode
    get_logger().error(event, worker=worker.number, pid=worker.process.pid, status=status, error=worker.words, **fields)


def _tell_not_replaced(number: int, error: OSError) -> None:
    from constructure_sync.observability import get_logger

    get_logger().error("worker_not_replaced", worker=number, error=repr(error))


# ---------------------------------------------------------------------- the parent's command


def check_workers(settings: Settings) -> None:
    """Raise SettingsError unless several workers can find one another."""
    if settings.bus_url.startswith("local:"):
        raise SettingsError(
            f"{PREFIX}BUS_URL: {settings.workers} workers need a bus between them, such as redis://localhost:6379; "
            '"local:" is for a single one'
        )


def supervise(settings: Settings) -> int:
    """Run the workers that the settings ask for; return the exit status. Raises SettingsError, WorkersFailed."""
    check_workers(settings)
    pace = Pace(
        start=settings.startup_wait_seconds + 60.0,
        stop=settings.drain_seconds + settings.database_timeout_seconds * 2 + 20.0,
    )
    try:
        reserved = bind(settings.host, settings.port)
    except OSError as error:
        raise WorkersFailed(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    folder = Path(tempfile.mkdtemp(prefix="constructure-metrics-"))
    port: int = reserved[0].getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host

    def announce() -> None:
        print(f"listening on http://{host}:{port}", flush=True)

    async def run() -> int:
        command = [sys.executable, "-c", _WORKER]
        return await Supervisor(settings.workers, command, port, folder, announce, pace).run()

    try:
        return asyncio.run(run())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for each in reserved:
            each.close()


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address of `host` and share it with the workers, without listening. OSError: it is taken, or not ours.

    port 0: any free one, the same for all addresses.
    """
    bound: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    ):
        place = (address[0], bound[0].getsockname()[1] if bound else port, *address[2:])
        if place[1]:
            # Shared ports would be shared with another server of this user, too: see first that there is none.
            with socket.socket(family, kind, protocol) as probe:
                _bind(probe, place)
        bound.append(_shared(family, place))
    return bound


def _shared(family: int, place: tuple[object, ...]) -> socket.socket:
    sharing = socket.socket(family, socket.SOCK_STREAM)
    sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _bind(sharing, place)
    return sharing


def _bind(unbound: socket.socket, place: tuple[object, ...]) -> None:
    unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if unbound.family == socket.AF_INET6:
        unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    unbound.bind(place)


# ---------------------------------------------------------------------- the worker's side


class _WorkerHost:
    """What a worker runs under (see `app.Host`)."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def listen(self, settings: Settings) -> list[socket.socket]:
        infos = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [_shared(family, address) for family, _, _, _, address in dict.fromkeys(infos)]

    def ready(self, url: str, server: "DrainingServer") -> None:
        loop = asyncio.get_running_loop()
        self._line.setblocking(False)
        loop.add_reader(self._line.fileno(), self._told, server)
        with suppress(ConnectionError):  # a parent that is gone is noticed by `_told`
            self._line.send(_READY.encode())

    def _told(self, server: "DrainingServer") -> None:
        if self._line.recv(len(_RETIRE)) == _RETIRE:
            server.retire()
        else:
            # The parent is gone.
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            signal.raise_signal(signal.SIGTERM)


def run_worker() -> None:
    """Be one of several workers; the arguments of the process are its end of the line, the folder of metrics, the port."""
    descriptor, folder, port = sys.argv[1:]
    # Read when the metrics are made, and not to be inherited: the processes that merge documents have none to tell.
    os.environ[METRICS_FOLDER] = folder
    from constructure_sync.observability import configure_logging, show_metrics_of

    del os.environ[METRICS_FOLDER]
    show_metrics_of(Path(folder))
    import uvloop

    from constructure_sync.app import serve
    from storage.contracts import StorageError

    with socket.socket(fileno=int(descriptor)) as line:
        line.set_inheritable(False)
        try:
            settings = load_settings().model_copy(update={"port": int(port)})
            configure_logging(settings.log_level)
            uvloop.run(serve(settings, _WorkerHost(line)))
        except SettingsError as error:
            _say(line, str(error))
            sys.exit(_UNUSABLE)
        except StorageError as error:
            _say(line, f"the database cannot be opened: {error}")
            sys.exit(1)


def _say(line: socket.socket, words: str) -> None:
    line.setblocking(True)
    line.sendall(words.encode()[:_WORDS_BYTES])
