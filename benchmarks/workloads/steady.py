"""How soon do neighbours see an edit, and what does a delivery cost, at a rate that people have?"""

from collections.abc import Sequence
from functools import partial

from benchmarks.check import check
from benchmarks.figures import Case, Figures, latency
from benchmarks.knobs import Knobs, Steady
from benchmarks.load import Meter, fill_rooms, new_generator, warm_up
from benchmarks.servers import World, embedded


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each shape of the load."""
    return [
        Case(
            f"{shape.rooms} rooms x {shape.clients} clients, {shape.rate:g} edits/s in each",
            partial(steady, shape, knobs, embedded),
        )
        for shape in knobs.steady
    ]


def steady(shape: Steady, knobs: Knobs, world: World) -> Figures:
    """Measure one spell."""
    with world(shape.rooms) as target, new_generator(echoes=target.echoes) as generator:
        clients = fill_rooms(generator, target, shape.rooms, shape.clients)
        warm_up(generator, clients, shape.rate * shape.rooms, knobs.warm_up_seconds, target)
        meter, before = Meter(*target.instances), len(generator.sent_at)
        generator.steadily(clients, shape.rate * shape.rooms, knobs.seconds)
        (used,), _, shares = meter.stop()
        edits = len(generator.sent_at) - before
        generator.settle()
        check(generator, target.urls())
        return {
            **latency("delivery", generator.latencies),
            "server CPU us an edit": 1e6 * used / edits,
            "server CPU us a delivery": 1e6 * used / (edits * (shape.clients - 1)),
            **shares,
        }
