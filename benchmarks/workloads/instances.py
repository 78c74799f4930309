"""How much later does somebody on another instance see an edit, and what does it cost there?"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

from benchmarks.check import check
from benchmarks.figures import Case, Figures, latency
from benchmarks.generator import Client
from benchmarks.knobs import Knobs, Steady
from benchmarks.load import Meter, fill_rooms, new_generator, warm_up
from benchmarks.servers import Target, World, scaled


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each shape of the load."""
    return [
        Case(
            f"{shape.rooms} rooms, {shape.rate:g} edits/s in each by {shape.clients} clients on A, one client on B",
            partial(across, shape, knobs, two_instances),
        )
        for shape in knobs.two_instances
    ]


def two_instances(courses: int) -> AbstractContextManager[Target]:
    """Give two instances over one PostgreSQL and one Valkey."""
    return scaled(courses, instances=2)


def across(shape: Steady, knobs: Knobs, world: World) -> Figures:
    """Measure one spell."""
    with world(shape.rooms) as target, new_generator() as generator:
        here = fill_rooms(generator, target, shape.rooms, shape.clients)
        there = {client.fd for client in fill_rooms(generator, target, shape.rooms, 1, instance=1)}
        warm_up(generator, here, shape.rate * shape.rooms, knobs.warm_up_seconds, target)
        across: list[float] = []

        def arrived(client: Client, _: int) -> None:
            if client.fd in there:
                across.append(generator.latencies.pop())

        generator.on_arrival = arrived
        meter, before = Meter(*target.instances), len(generator.sent_at)
        generator.steadily(here, shape.rate * shape.rooms, knobs.seconds)
        (on_a, on_b), _, shares = meter.stop()
        edits = len(generator.sent_at) - before
        backends = meter.backends(edits)
        generator.settle()
        check(generator, target.urls())
        return {
            **latency("seen on A", generator.latencies),
            **latency("seen on B", across),
            "CPU of A us an edit": 1e6 * on_a / edits,
            "CPU of B us an edit": 1e6 * on_b / edits,
            **backends,
            **shares,
        }
