"""What does a connection cost that does nothing?"""

import time
from collections.abc import Sequence
from functools import partial

from benchmarks.check import check
from benchmarks.figures import Case, Figures
from benchmarks.generator import Generator
from benchmarks.knobs import Knobs
from benchmarks.load import new_generator
from benchmarks.servers import MIB, World, embedded, resident, rest


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each number of connections."""
    return [
        Case(
            f"{count:,} idle connections, {knobs.idle_per_room} in a room",
            partial(idle_memory, knobs, count, embedded),
        )
        for count in knobs.idle_connections
    ]


def idle_memory(knobs: Knobs, connections: int, world: World) -> Figures:
    """Measure by how much the serving process grows, once it is at rest, with so many connections."""
    per_room = knobs.idle_per_room
    rooms = connections // per_room
    with world(rooms + 1) as target, new_generator(echoes=target.echoes) as generator:
        server = target.instances[0]
        _warm_up(generator, target.url(rooms), rooms)
        rest(server)
        before, started = resident(server), time.perf_counter()
        for room in range(rooms):
            for _ in range(per_room):
                generator.join(target.url(room), room, is_observer=False)
        seconds = time.perf_counter() - started
        rest(server)
        memory = resident(server) - before
        for room in range(rooms):
            generator.edit(generator.clients[1 + room * per_room])
        generator.settle()
        check(generator, target.urls())
        return {
            "KiB a connection": memory / 1024 / connections,
            "MiB of the process before": before / MIB,
            "connections opened a second": connections / seconds,
        }


def _warm_up(generator: Generator, url: str, room: int) -> None:
    """Have one room used first, so that what is made once is not counted for the others."""
    client = generator.join(url, room, is_observer=False)
    for _ in range(20):
        generator.edit(client)
        generator.poll(0.01)
