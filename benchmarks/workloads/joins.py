"""How long does somebody wait who opens a large course: in an open room, in one that has to be loaded, in a crowd?

A join is all of it: connecting, being admitted, asking, and having the last byte of the answer.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from benchmarks.crowd import Crowd, Visitor
from benchmarks.edits import MARK, Author
from benchmarks.figures import GENERATOR, Case, Figures, quantile
from benchmarks.graph import Offline, content, graph
from benchmarks.knobs import Knobs
from benchmarks.servers import Loadable, Target, World, cpu_seconds, embedded, rest
from benchmarks.wire import LoadFailed
from tests.cluster import metric

_IDLE_SECONDS: Final = "0.2"  # after which our rooms go, where they shall
_CALM_SECONDS: Final = 0.05  # so that what a join leaves behind is not the next one's
_EDITOR: Final = 1_000_000  # client id


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return one case for joins one after the other, one where the room has gone each time, and one for a crowd."""
    return [
        Case("one joins an open room", partial(joins, knobs, embedded)),
        Case("one joins a room that has to be loaded", partial(joins_of_evicted, knobs, embedded)),
        Case(f"{knobs.joiners} join an open room at once", partial(join_storm, knobs, embedded)),
    ]


@dataclass(slots=True)
class Spell:
    """What some spells cost together. times: of each client; used, workers, own: processor seconds of the serving process, of its
    worker processes, and of the generator."""

    target: Loadable
    seconds: float = 0.0
    used: float = 0.0
    workers: float = 0.0
    own: float = 0.0
    times: list[float] = field(default_factory=list)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what happens inside. What the server still does when its clients have everything counts, too."""
        used, workers = self._cpu()
        own, started = time.process_time(), time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started
        self.own += time.process_time() - own
        time.sleep(_CALM_SECONDS)
        now = self._cpu()
        self.used += now[0] - used
        self.workers += now[1] - workers

    def _cpu(self) -> tuple[float, float]:
        return cpu_seconds(self.target.instances[0])

    def figures(self, name: str, clients: int) -> Figures:
        """Return the median wait, and what each client cost."""
        return {
            f"{name} p50 ms": quantile(self.times, 0.5) * 1e3,
            f"{name} server CPU ms": 1e3 * self.used / clients,
            f"{name} worker processes CPU ms": 1e3 * self.workers / clients,
        }


def joins(knobs: Knobs, world: World) -> Figures:
    """Measure joins of a room that is open, each after a small edit, so that no answer is at hand, and as it stands."""
    with world(1) as target, Crowd() as crowd:
        room = Room(crowd, target, knobs)
        uncached, cached = Spell(target), Spell(target)
        for _ in range(knobs.joins):
            room.edit()
            _join(room, uncached)
            _join(room, cached)
        room.check([room.visit(keeps=True), room.witness])
        return {
            **uncached.figures("open, uncached:", knobs.joins),
            **cached.figures("open, cached:", knobs.joins),
            GENERATOR: 100 * (uncached.own + cached.own) / (uncached.seconds + cached.seconds),
        }


def joins_of_evicted(knobs: Knobs, world: World) -> Figures:
    """Measure joins of a room that was let go before each. Others hold their rooms in memory for ever: theirs stays open."""
    if world is embedded:
        world = partial(embedded, room_idle_seconds=_IDLE_SECONDS)
    with world(1) as target, Crowd() as crowd:
        room = Room(crowd, target, knobs)
        if isinstance(target, Target):
            room.leave()
        spell = Spell(target)
        for _ in range(knobs.joins):
            _wait_for_eviction(target)
            _join(room, spell)
        room.check([room.visit(keeps=True)])
        return {**spell.figures("evicted:", knobs.joins), GENERATOR: 100 * spell.own / spell.seconds}


def join_storm(knobs: Knobs, world: World) -> Figures:
    """Measure how a crowd joins an open room at once, after a small edit."""
    with world(1) as target, Crowd() as crowd:
        room = Room(crowd, target, knobs)
        room.edit()
        spell = Spell(target)
        count = knobs.joiners
        with spell.measured():
            started = time.perf_counter()
            visitors = [room.visit(keeps=number in (0, count - 1)) for number in range(count)]
            crowd.until(lambda: all(visitor.is_synced for visitor in visitors))
        spell.times = [visitor.synced_at - started for visitor in visitors]
        room.check([visitors[0], visitors[-1], room.witness])
        return {
            "at once: all ms": max(spell.times) * 1e3,
            **spell.figures("at once:", count),
            GENERATOR: 100 * spell.own / spell.seconds,
        }


class Room:
    """The course that is joined: uploaded by one client and edited by it, while another one watches."""

    def __init__(self, crowd: Crowd, target: Loadable, knobs: Knobs) -> None:
        self._crowd = crowd
        self._target = target
        self._nodes = knobs.graph_nodes
        self._author = Author(_EDITOR)
        self._edits = 0
        self._further: list[bytes] = []
        # Alone first: one of the peers hangs when two open a new room at once.
        self._editor = self._enter(keeps=False)
        self.witness = self._enter(keeps=True)
        self.witness.watch()
        for update in graph(self._nodes):
            self._editor.send(update)
        self.edit()

    def _enter(self, *, keeps: bool) -> Visitor:
        visitor = self.visit(keeps=keeps)
        self.until_synced(visitor)
        return visitor

    def edit(self) -> None:
        """Make a small edit, and return when the server has taken it and all before it, and is at rest."""
        number, self._edits = self._edits, self._edits + 1
        update = self._author.edit(number)
        self._further.append(update)
        self._editor.send(update)
        self._crowd.until(lambda: number in self.witness.seen)
        rest(*self._target.instances)

    def visit(self, *, keeps: bool = False) -> Visitor:
        """Have somebody come who has nothing."""
        return self._crowd.enter(Visitor(self._target.url(0), keeps=keeps))

    def come_back(self, person: Offline) -> Visitor:
        """Have somebody come back."""
        visitor = Visitor(self._target.url(0), state_vector=person.state_vector, answer=person.update, keeps=True)
        visitor.made = [*graph(self._nodes)[: person.known], person.update]
        self._further.append(person.update)
        return self._crowd.enter(visitor)

    def leave(self) -> None:
        """Have the editor and the witness go."""
        for visitor in (self._editor, self.witness):
            self._crowd.leave(visitor)

    def check(self, visitors: Sequence[Visitor]) -> None:
        """Check that these, who keep what they receive, and a fresh client hold what was written. LoadFailed: one does not."""
        expected = content([*graph(self._nodes), *self._further])
        fresh = self.visit(keeps=True)
        self._crowd.until(lambda: all(visitor.is_synced for visitor in (*visitors, fresh)))
        if any(content(visitor.updates()) != expected for visitor in (*visitors, fresh)):
            raise LoadFailed("the clients do not hold what was written")

    def until_told(self, visitors: Sequence[Visitor], edits: int) -> None:
        """Read until these, who keep what they receive, have so many edits, with their own."""
        for visitor in visitors:
            visitor.seen.update(map(int, MARK.findall(visitor.made[-1])))
            visitor.watch()
        self._crowd.until(lambda: all(len(visitor.seen) >= edits for visitor in visitors))

    def gone(self, visitor: Visitor) -> None:
        """Have a visitor go, and wait until the server is calm again."""
        self._crowd.leave(visitor)
        time.sleep(_CALM_SECONDS)

    def until_synced(self, visitor: Visitor) -> None:
        """Read until a visitor has everything."""
        self._crowd.until(lambda: visitor.is_synced)


def _join(room: Room, spell: Spell) -> None:
    with spell.measured():
        started = time.perf_counter()
        visitor = room.visit()
        room.until_synced(visitor)
    spell.times.append(visitor.synced_at - started)
    room.gone(visitor)


def _wait_for_eviction(target: Loadable) -> None:
    """Wait until our server has no room and has compacted what it let go."""
    if not isinstance(target, Target):
        return
    while metric(target.server, 'rooms{state="live"}'):
        time.sleep(_CALM_SECONDS)
    rest(target.server)
