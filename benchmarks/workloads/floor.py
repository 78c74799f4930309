"""How near does the server come to a broadcaster in C that does the system calls of the same load, and nothing else?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.figures import GENERATOR, Case, Figures
from benchmarks.floor import floor_world
from benchmarks.knobs import Knobs, Steady
from benchmarks.servers import World, embedded, unpin
from benchmarks.workloads.saturation import saturate
from benchmarks.workloads.steady import steady


@dataclass(frozen=True, slots=True)
class Compared:
    """A load, and its figures that are told of both, each with whether more is better."""

    label: str
    load: Callable[[World], Figures]
    figures: tuple[tuple[str, bool], ...]


_MOST = (("delivered/s", True), ("server CPU us a delivery", False))
_DELAYS = (("delivery p50 ms", False), ("delivery p99 ms", False), ("server CPU us a delivery", False))


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each load."""
    return [Case(f"{each.label}, beside the C floor", partial(_compare, each)) for each in loads(knobs)]


def loads(knobs: Knobs) -> Sequence[Compared]:
    """Return what the floor is compared in."""
    rooms, clients, writers = knobs.saturated_rooms, knobs.saturated_clients, knobs.saturated_writers
    big = replace(knobs, saturated_rooms=1, saturated_clients=knobs.floor_room, saturated_writers=10)
    saturated = [
        Compared(
            f"{rooms} rooms x {clients} clients, {writers} writers in each with {window} edits on their way",
            partial(saturate, knobs, window),
            _MOST,
        )
        for window in knobs.windows
    ]
    fanned_out = [
        Compared(
            f"1 room x {clients} clients, {rate} edits/s",
            partial(steady, Steady(1, clients, rate), knobs),
            _DELAYS,
        )
        for clients, rate in knobs.floor_fan_outs
    ]
    one_room = Compared(
        f"1 room x {knobs.floor_room} clients, 10 writers with 4 edits on their way", partial(saturate, big, 4), _MOST
    )
    return [*saturated, *([one_room] if knobs.floor_room else []), *fanned_out]


def _compare(compared: Compared) -> Figures:
    """Measure both, one after the other."""
    floor = compared.load(floor_world)
    unpin()
    ours = compared.load(embedded)
    told: dict[str, float] = {}
    for name, more_is_better in compared.figures:
        told[name] = ours[name]
        told[f"{name}, floor"] = floor[name]
        told[f"{name}, % of the floor"] = 100 * (
            ours[name] / floor[name] if more_is_better else floor[name] / ours[name]
        )
    told[GENERATOR] = ours[GENERATOR]
    told[f"{GENERATOR}, floor"] = floor[GENERATOR]
    return told
