"""How much does one core deliver when writers never wait longer than they must?"""

from collections.abc import Sequence
from functools import partial

from benchmarks.check import check
from benchmarks.figures import Case, Figures, latency
from benchmarks.generator import Client, Generator
from benchmarks.knobs import Knobs
from benchmarks.load import Meter, new_generator, warm_up
from benchmarks.servers import Loadable, World, embedded


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each number of edits that a writer has on their way."""
    rooms, clients, writers = knobs.saturated_rooms, knobs.saturated_clients, knobs.saturated_writers
    return [
        Case(
            f"{rooms} rooms x {clients} clients, {writers} writers in each with {window} edits on their way",
            partial(saturate, knobs, window, embedded),
        )
        for window in knobs.windows
    ]


def saturate(knobs: Knobs, window: int, world: World) -> Figures:
    """Measure one spell."""
    with world(knobs.saturated_rooms) as target, new_generator(echoes=target.echoes) as generator:
        writers = _join(generator, target, knobs)
        warm_up(generator, writers, 10.0 * len(writers), knobs.warm_up_seconds, target)
        is_over = False

        def arrived(_: Client, number: int) -> None:
            if not is_over:
                generator.edit(generator.sent_by[number])

        generator.on_arrival = arrived
        for writer in writers:
            for _ in range(window):
                generator.edit(writer)
        _poll_for(generator, knobs.warm_up_seconds)
        generator.latencies.clear()
        meter = Meter(*target.instances)
        readers = [client for client in generator.clients if client not in writers]
        delivered = sum(client.arrived for client in readers)
        _poll_for(generator, knobs.seconds)
        (used,), seconds, shares = meter.stop()
        delivered = sum(client.arrived for client in readers) - delivered
        latencies = tuple(generator.latencies)
        is_over = True
        generator.settle()
        check(generator, target.urls())
        return {
            "delivered/s": delivered / seconds,
            "edits/s": len(latencies) / seconds,
            "server CPU us a delivery": 1e6 * used / delivered,
            "server CPU us an edit": 1e6 * used / len(latencies),
            **latency("delivery", latencies),
            **shares,
        }


def _join(generator: Generator, target: Loadable, knobs: Knobs) -> list[Client]:
    """Have everybody join; return the writers. Of the others in a room one observes: what it got, its writer makes anew.

    Only the first, the last and the one that observes keep what they get.
    """
    writers = []
    kept = {0, knobs.saturated_writers, knobs.saturated_clients - 1}
    for room in range(knobs.saturated_rooms):
        for number in range(knobs.saturated_clients):
            is_observer = number == knobs.saturated_writers
            client = generator.join(target.url(room), room, is_observer=is_observer, keeps=number in kept)
            if number < knobs.saturated_writers:
                writers.append(client)
    return writers


def _poll_for(generator: Generator, seconds: float) -> None:
    meter = Meter()
    while meter.elapsed() < seconds:
        generator.poll(0.05)
