"""How does real editing fare: recorded typing of several people, and whole courses, sent again by many writers?

`traces(shape, knobs, world)` replays one of them on any World.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Case, Figures, latency
from benchmarks.knobs import Knobs, Trace
from benchmarks.load import Meter
from benchmarks.replay import Replay
from benchmarks.scripts import script_of
from benchmarks.servers import World, embedded, rest


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for each trace and course."""
    return [Case(label(shape), partial(traces, shape, knobs, embedded)) for shape in knobs.traces]


def label(shape: Trace) -> str:
    """Return what the replay of a trace is called."""
    pace = f"{shape.rate:g} edits/s in each" if shape.rate else f"{shape.window} edits of a writer on their way"
    return f"{shape.name}, {shape.rooms} rooms x {shape.readers} readers, {pace}"


def traces(shape: Trace, knobs: Knobs, world: World) -> Figures:
    """Measure one replay. The time to the last edit's arrival counts; receipts are told where the server gives them.

    Absent: the data, or Node with its packages, is not here.
    """
    script = script_of(shape.name, shape.writers, knobs.trace_turn, shape.edits)
    with world(shape.rooms) as target, Replay(target, range(shape.rooms), script, shape.readers) as replay:
        rest(*target.instances)
        meter = Meter(*target.instances)
        if shape.rate:
            replay.at_rate(shape.rate)
        else:
            replay.with_window(shape.window)
        used, seconds, shares = meter.stop()
        replay.settle()
        replay.check()
        receipts = [taken for room in replay.rooms for line in room.writers for taken in line.client.receipts]
        return {
            "edits": replay.sent,
            "writers in a room": len(script.clients),
            "edits/s": replay.sent / seconds,
            **latency("delivery", [taken for room in replay.rooms for taken in room.arrived]),
            **(latency("receipt", receipts) if receipts else {}),
            "server CPU us an edit": 1e6 * sum(used) / replay.sent,
            **shares,
        }
