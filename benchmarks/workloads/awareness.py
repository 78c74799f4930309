"""How late is what is shown of the others when everybody in a room moves, and what does the server make of the echoes?

Stock clients of y-websocket send every state that they receive back, so the server gets each move once from its author and once
from everybody else. `awareness(knobs, world)` measures one spell on any World.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Case, Figures, latency
from benchmarks.knobs import Knobs
from benchmarks.load import Meter
from benchmarks.presence import Crowd
from benchmarks.servers import World, embedded, rest

_FRESH = 999_999_937


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return the one case."""
    return [Case(label(knobs), partial(awareness, knobs, embedded))]


def label(knobs: Knobs) -> str:
    """Return what the load is called."""
    return f"1 room x {knobs.present} clients, each moving {knobs.moves:g} times a second, with their echoes"


def awareness(knobs: Knobs, world: World) -> Figures:
    """Measure one spell; at the end everybody and a fresh client show the last state of all."""
    with world(1) as target, Crowd(target.url(0), knobs.present) as crowd:
        crowd.move_for(knobs.warm_up_seconds, knobs.moves)
        crowd.settle()
        rest(*target.instances)
        crowd.delays.clear()
        delivered, took, sent_back = crowd.delivered, crowd.took, crowd.sent_back
        meter = Meter(*target.instances)
        moves = crowd.move_for(knobs.seconds, knobs.moves)
        (used,), seconds, shares = meter.stop()
        delivered, took, sent_back = crowd.delivered - delivered, crowd.took - took, crowd.sent_back - sent_back
        crowd.settle()
        delays = tuple(crowd.delays)
        crowd.join(target.urls()[0], _FRESH)
        crowd.settle()
        return {
            "moves/s": moves / seconds,
            "delivered states/s": delivered / seconds,
            "echoes/s": sent_back / seconds,
            **latency("staleness", delays),
            "server CPU us a delivered state": 1e6 * used / delivered,
            "bytes out MB/s": took / seconds / 1e6,
            **shares,
        }
