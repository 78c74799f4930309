"""How long until others see what people wrote offline, when they come back one by one, and all at once?

Each of them has another state vector and edits of their own. An observer was there all the time.
"""

import time
from collections.abc import Sequence
from functools import partial

from benchmarks.crowd import Crowd, Visitor
from benchmarks.figures import GENERATOR, Case, Figures, quantile
from benchmarks.graph import Offline, offline
from benchmarks.knobs import Knobs
from benchmarks.servers import World, embedded
from benchmarks.workloads.joins import Room, Spell


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case."""
    return [Case(f"coming back alone, and {knobs.rejoiners} at once", partial(rejoin, knobs, embedded))]


def rejoin(knobs: Knobs, world: World) -> Figures:
    """Measure some who come back one after the other, then a crowd."""
    people = offline(knobs.graph_nodes, knobs.rejoiners + knobs.joins, knobs.offline_edits)
    with world(1) as target, Crowd() as crowd:
        room = Room(crowd, target, knobs)
        alone = Return(crowd, room, Spell(target))
        for person in people[: knobs.joins]:
            alone.of([person])
        together = Return(crowd, room, Spell(target))
        visitors = together.of(people[knobs.joins :])
        room.check([visitors[0], visitors[-1], room.witness])
        return {
            "alone: observed p50 ms": quantile(alone.observed, 0.5) * 1e3,
            **alone.spell.figures("alone: synced", knobs.joins),
            "at once: all observed ms": max(together.observed) * 1e3,
            "at once: all synced ms": max(together.spell.times) * 1e3,
            **together.spell.figures("at once: synced", knobs.rejoiners),
            GENERATOR: 100 * together.spell.own / together.spell.seconds,
        }


class Return:
    """People who come back. observed: seconds until the observer had all that those of a group had written."""

    def __init__(self, crowd: Crowd, room: Room, spell: Spell) -> None:
        self._crowd = crowd
        self._room = room
        self.spell = spell
        self.observed: list[float] = []

    def of(self, people: Sequence[Offline]) -> Sequence[Visitor]:
        """Have a group come back at once and measure it; return them, who have everything that all have written."""
        seen = self._room.witness.seen
        edits = len(seen) + sum(len(person.marks) for person in people)
        with self.spell.measured():
            started = time.perf_counter()
            visitors = [self._room.come_back(person) for person in people]
            self._crowd.until(lambda: len(seen) >= edits)
            self.observed.append(time.perf_counter() - started)
            self._crowd.until(lambda: all(visitor.is_synced for visitor in visitors))
        self.spell.times += [visitor.synced_at - started for visitor in visitors]
        self._room.until_told(visitors, edits)
        return visitors
