"""What does a connection cost that does nothing?"""

import time
from collections.abc import Sequence
from functools import partial

from benchmarks.check import check
from benchmarks.figures import Case, Figures
from benchmarks.generator import Generator
from benchmarks.knobs import Knobs
from benchmarks.load import new_generator
from benchmarks.servers import embedded, resident, rest


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each number of connections."""
    per_room = knobs.idle_per_room
    return [
        Case(f"{count:,} idle connections, {per_room} in a room", partial(_measure, count, per_room))
        for count in knobs.idle_connections
    ]


def _measure(count: int, per_room: int) -> Figures:
    rooms = count // per_room
    with embedded(rooms + 1) as target, new_generator() as generator:
        _warm_up(generator, target.url(rooms), rooms)
        rest(target.server)
        before, started = resident(target.server), time.perf_counter()
        for room in range(rooms):
            for _ in range(per_room):
                generator.join(target.url(room), room, is_observer=False)
        seconds = time.perf_counter() - started
        memory = resident(target.server) - before
        for room in range(rooms):
            generator.edit(generator.clients[1 + room * per_room])
        generator.settle()
        check(generator, target.urls())
        return {
            "KiB a connection": memory / 1024 / count,
            "MiB of the process before": before / 1024 / 1024,
            "connections opened a second": count / seconds,
        }


def _warm_up(generator: Generator, url: str, room: int) -> None:
    """Have one room used first, so that what is made once is not counted for the others."""
    client = generator.join(url, room, is_observer=False)
    for _ in range(20):
        generator.edit(client)
        generator.poll(0.01)
