"""One spell of load on a target: who joins, what is measured meanwhile, and the check at the end."""

import random
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.figures import GENERATOR, Figures
from benchmarks.generator import Client, Generator
from benchmarks.servers import Loadable, Process, backend_seconds, cpu_seconds, rest

SEED: Final = 1


def new_generator(*, echoes: bool = False) -> Generator:
    """Return a generator; each makes the same random choices."""
    return Generator(random.Random(SEED), echoes=echoes)


def fill_rooms(
    generator: Generator, target: Loadable, rooms: int, clients: int, *, instance: int = 0, wants_receipts: bool = False
) -> list[Client]:
    """Have so many clients join each of the first rooms."""
    return [
        generator.join(target.url(room, instance), room, wants_receipts=wants_receipts)
        for room in range(rooms)
        for _ in range(clients)
    ]


def warm_up(
    generator: Generator, writers: Sequence[Client], per_second: float, seconds: float, target: Loadable
) -> None:
    """Edit for a while, and wait until everybody has everything and the servers are at rest."""
    generator.steadily(writers, per_second, seconds)
    generator.settle()
    rest(*target.instances)
    generator.latencies.clear()
    for client in generator.clients:
        client.receipts.clear()


class Meter:
    """What a spell costs: processor time of servers and of the generator, from `start` on."""

    def __init__(self, *servers: Process) -> None:
        self._servers = servers
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._used = [cpu_seconds(server) for server in self._servers]
        self._backends = backend_seconds()
        self._own, self._wall = time.process_time(), time.perf_counter()

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._wall

    def stop(self) -> tuple[Sequence[float], float, Figures]:
        """Return the processor seconds of each serving process, the seconds that went by, and shares of a core as figures."""
        now = [cpu_seconds(server) for server in self._servers]
        seconds = self.elapsed()
        used = [serving - before for (serving, _), (before, _) in zip(now, self._used, strict=True)]
        workers = sum(after - before for (_, after), (_, before) in zip(now, self._used, strict=True))
        shares = {
            "server CPU %": used[0],
            "worker processes CPU %": workers,
            GENERATOR: time.process_time() - self._own,
        }
        return used, seconds, {name: 100 * share / seconds for name, share in shares.items()}

    def backends(self, edits: int) -> Figures:
        """Return the processor time of what lies behind the servers, for each edit."""
        now = backend_seconds()
        return {
            f"CPU of {name} us an edit": 1e6 * (now[name] - before) / edits for name, before in self._backends.items()
        }
