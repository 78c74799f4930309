"""How late is what is shown of the others when everybody in a room moves, and what does the server make of the echoes?

Stock clients of y-websocket send every state that they receive back, so the server gets each move once from its author and once
from everybody else. `awareness(knobs, world)` measures one spell on any World with clients of our own, which cost little;
`awareness_of_stock_clients(knobs, world)` with stock ones, which need more of a processor than the server does.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import GENERATOR, Case, Figures, latency
from benchmarks.knobs import Knobs
from benchmarks.load import Meter
from benchmarks.presence import Crowd
from benchmarks.servers import World, embedded, rest
from benchmarks.stock_clients import StockClients

_FRESH = 999_999_937


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return the case of our own clients and that of stock ones."""
    stock = f"the same with {knobs.stock_present} stock clients in {knobs.stock_processes} processes"
    return [
        Case(label(knobs), partial(awareness, knobs, embedded)),
        Case(stock, partial(awareness_of_stock_clients, knobs, embedded)),
    ]


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


def awareness_of_stock_clients(knobs: Knobs, world: World) -> Figures:
    """Measure one spell of stock y-websocket clients; at the end everybody shows the last state of all.

    Absent: Node, or a server that they cannot speak to.
    """
    with (
        world(1) as target,
        StockClients(target.urls()[0], knobs.stock_present, knobs.stock_processes) as clients,
    ):
        clients.settle(clients.move(knobs.warm_up_seconds, knobs.moves))
        rest(*target.instances)
        meter, busy = Meter(*target.instances), clients.cpu_seconds
        seen = clients.move(knobs.seconds, knobs.moves)
        (used,), seconds, shares = meter.stop()
        busy = clients.cpu_seconds - busy
        clients.settle(seen)
        delivered = sum(each["delivered"] for each in seen)
        made = sum(each["made"] for each in seen)
        return {
            "moves/s": made / seconds,
            "delivered states/s": delivered / seconds,
            "echoes/s": (sum(each["sent"] for each in seen) - made) / seconds,
            **latency("staleness", [delay / 1e3 for each in seen for delay in each["delays"]]),
            "server CPU us a delivered state": 1e6 * used / delivered,
            "bytes out MB/s": sum(each["took"] for each in seen) / seconds / 1e6,
            **shares,
            GENERATOR: 100 * busy / seconds,
        }
