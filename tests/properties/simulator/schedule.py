"""Runs one seed: misfortunes first, then peace, then the final comparison."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from structlog.testing import capture_logs

from tests.properties.simulator.client import Client
from tests.properties.simulator.loop import VirtualLoop, run_virtually
from tests.properties.simulator.world import View, World

_NEVER_LOGGED = {"room_failed", "upkeep_failed", "save_refused"}
"""What only a fault of the core brings about: with one instance, nobody else ever moves a document's head."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one schedule showed. lost: acknowledged edits that a fresh load does not hold."""

    seed: int
    violations: tuple[str, ...]
    edits: int
    acknowledged: int
    lost: int
    seconds: float


def run_schedule(seed: int) -> Outcome:
    """Run the schedule of this seed."""

    async def main(loop: VirtualLoop) -> Outcome:
        world = World(loop, seed)
        loop.set_exception_handler(lambda _, context: world.fail("error", f"{context.get('exception', context)!r}"))
        try:
            await Schedule(world).run()
        except Exception as error:
            world.fail("error", repr(error))
        return Outcome(
            seed,
            tuple(world.violations),
            sum(client.keys for client in world.clients),
            world.acknowledged,
            world.lost,
            loop.time(),
        )

    with capture_logs() as logs:
        outcome = run_virtually(main)
    failed = [f"error: {log}" for log in logs if log["event"] in _NEVER_LOGGED]
    if failed and not outcome.violations:
        return Outcome(seed, tuple(failed), outcome.edits, outcome.acknowledged, outcome.lost, outcome.seconds)
    return outcome


class Schedule:
    """The misfortunes of one world, and its end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._random = world.random
        self._actions: list[tuple[int, Callable[[], None]]] = [
            (40, self._edit),
            (6, self._type_fast),
            (5, self._move_cursor),
            (6, self._cut),
            (3, self._blip),
            (4, self._go_offline),
            (8, self._come_online),
            (5, self._stall),
            (6, self._flow),
            (3, self._ask_again),
            (3, self._change_weather),
            (3, self._clear_up),
            (2, self._lose_worker),
            (2, self._crash),
            (1, self._close_tab),
            (1, self._open_second_tab),
            (1, self._lower_role),
        ]
        # Each schedule has a mood of its own: what is rare in one is common in another.
        self._weights = [weight * self._random.choice((0.2, 1.0, 1.0, 5.0)) for weight, _ in self._actions]

    @property
    def _clients(self) -> list[Client]:
        return [client for client in self.world.clients if not client.is_gone]

    async def run(self) -> None:
        """Live through it all."""
        world, random = self.world, self._random
        pace = random.choice((0.001, 0.02, 0.3))
        if random.random() < 0.3:
            self._change_weather()
        for _ in range(random.randint(10, 60)):
            await asyncio.sleep(random.expovariate(1.0) * pace if random.random() < 0.97 else random.uniform(5, 70))
            action = random.choices(self._actions, self._weights)[0][1]
            action()
            if random.random() < 0.01:
                await world.stop()
            self._check_bounds()
            if world.violations:
                return
        for phase in (self._make_peace, self._compare, self._join_afresh, self._leave_all):
            await phase()
            if world.violations:
                return

    # ------------------------------------------------------------------ what happens

    def _edit(self) -> None:
        client = self._random.choice(self._clients)
        if client.can_write or self._random.random() < 0.1:
            client.edit()

    def _type_fast(self) -> None:
        client = self._random.choice(self._clients)
        if client.can_write:
            for _ in range(self._random.randint(2, 8)):
                client.edit()

    def _move_cursor(self) -> None:
        self._random.choice(self._clients).move_cursor()

    def _cut(self) -> None:
        wire = self._random.choice(self._clients).wire
        if wire is not None:
            choice = self._random.choice
            wire.cut(server_notices=choice((0.0, 0.01, 0.5, 45.0)), client_notices=choice((0.0, 0.01, 0.5)))

    def _blip(self) -> None:
        """Lose the line just after an edit, perhaps before its receipt: it is repeated while it may still be unsaved (R11)."""
        client = self._random.choice(self._clients)
        wire = client.wire
        if wire is not None and client.can_write:
            client.edit()
            delay = self._random.uniform(0.0, 0.3)
            self.world.loop.call_later(delay, lambda: wire.cut(server_notices=0.0, client_notices=0.0))

    def _go_offline(self) -> None:
        self._random.choice(self._clients).go_offline()

    def _come_online(self) -> None:
        for client in self._clients:
            if not client.is_online:
                client.come_online()
                return

    def _stall(self) -> None:
        wire = self._random.choice(self._clients).wire
        if wire is not None:
            wire.stall()

    def _flow(self) -> None:
        for client in self._clients:
            if client.wire is not None and client.wire.is_stalled:
                client.wire.flow()
                return

    def _ask_again(self) -> None:
        self._random.choice(self._clients).ask()

    def _change_weather(self) -> None:
        weather, random = self.world.weather, self._random
        weather.delay = random.choice((0.0, 0.002, 0.05, 1.0))
        weather.is_away = random.random() < 0.3
        weather.fail_before = random.choice((0.0, 0.0, 0.5))
        weather.fail_after = random.choice((0.0, 0.0, 0.5))
        weather.hang = random.choice((0.0, 0.0, 0.1))
        weather.locked = random.choice((None, None, *self.world.documents))
        weather.stranded_is_away = random.random() < 0.2

    def _clear_up(self) -> None:
        weather = self.world.weather
        weather.delay = 0.002
        weather.is_away = False
        weather.fail_before = weather.fail_after = weather.hang = 0.0
        weather.locked = None
        weather.stranded_is_away = False

    def _lose_worker(self) -> None:
        self.world.instance.workers.failures = self._random.choice((1, 1, 3))

    def _crash(self) -> None:
        self.world.crash()

    def _close_tab(self) -> None:
        clients = self._clients
        if len(clients) > 2:
            gone = self._random.choice(clients)
            gone.leave_for_ever()
            self.world.new_client(gone.user_id.int, can_write=gone.can_write)

    def _open_second_tab(self) -> None:
        client = self._random.choice(self._clients)
        if len(self._clients) < 6:
            self.world.new_client(client.user_id.int, can_write=client.can_write)

    def _lower_role(self) -> None:
        client = self._random.choice(self._clients)
        if client.user_id.int != 1:  # somebody goes on writing
            self.world.lower_role(client.user_id)

    def _check_bounds(self) -> None:
        world = self.world
        writer = world.instance.log_writer
        if writer.unsaved_bytes > world.limits.commits.unsaved_bytes + world.witness.largest:
            world.fail("R13", f"{writer.unsaved_bytes} bytes are unsaved")

    # ------------------------------------------------------------------ peace

    async def _make_peace(self) -> None:
        self._clear_up()
        self.world.instance.workers.failures = 0
        for client in self._clients:
            if client.wire is not None:
                client.wire.flow()
            client.come_online()
        if not await self._wait_for(self._is_quiet):
            self.world.fail("R1", "not everybody is in step two minutes after the last trouble: " + self._restless())
        elif not await self._wait_for(self._is_everyone_seen):
            self.world.fail("R8", "not everybody sees everybody: " + self._unseen())

    async def _wait_for(self, condition: Callable[[], bool]) -> bool:
        end = self.world.loop.time() + 120.0
        while not condition():
            if self.world.violations:
                return True
            if self.world.loop.time() > end:
                return False
            await asyncio.sleep(0.5)
        return True

    def _is_quiet(self) -> bool:
        return not self.world.instance.log_writer.unsaved_bytes and not any(map(self._is_restless, self._clients))

    def _is_restless(self, client: Client) -> bool:
        return (
            client.wire is None
            or client.wire.is_cut
            or client.wire.has_ended
            or not client.is_synced
            or not client.wire.is_idle
            or (client.wants_receipts and client.can_write and client.acknowledged_writes < len(client.writes))
            or self.world.has_unsaved(client)  # a reader that has written is to be sent away
        )

    def _restless(self) -> str:
        return "; ".join(
            f"{c.number}: wire {c.wire is not None}, synced {c.is_synced}, {c.acknowledged_writes} of {len(c.writes)} saved"
            for c in self._clients
            if self._is_restless(c)
        )

    def _is_everyone_seen(self) -> bool:
        return self._is_quiet() and not self._unseen()

    def _unseen(self) -> str:
        shown = [client for client in self._clients if not client.is_shy]
        return "; ".join(
            f"{client.number} sees {sorted(client.awareness.states)}"
            for client in shown
            if set(client.awareness.states)
            != {other.number for other in shown if other.document_id == client.document_id}
        )

    # ------------------------------------------------------------------ the end

    async def _compare(self) -> None:
        """All replicas and a fresh load are equal, and every acknowledged edit is in it."""
        world = self.world
        for document_id in world.documents:
            fresh = await world.load(document_id)
            for client in self._clients:
                if client.document_id == document_id:
                    difference = View(client.doc).difference(fresh)
                    if difference:
                        world.fail("divergence", f"{client.number} and the log: {difference}")
            self._check_acknowledged(fresh, [c for c in world.clients if c.document_id == document_id])

    def _check_acknowledged(self, fresh: View, clients: Sequence[Client]) -> None:
        for client in clients:
            lost = [n for n in range(client.acknowledged) if f"{client.number}.{n}" not in fresh.map]
            self.world.acknowledged += client.acknowledged
            self.world.lost += len(lost)
            if lost:
                self.world.fail("R1", f"acknowledged edits of {client.number} are lost: {lost}")

    async def _join_afresh(self) -> None:
        """R5 and R12: newcomers have everything, and their joining writes nothing."""
        world = self.world
        newcomers = [world.new_client(90 + n, can_write=n == 0) for n in range(2)]
        if not await self._wait_for(self._is_quiet):
            world.fail("R5", "newcomers are not in step: " + self._restless())
            return
        for client in newcomers:
            if client.user_id in world.witness.authors:
                world.fail("R12", "joining has written something")
            difference = View(client.doc).difference(await world.load(client.document_id))
            if difference:
                world.fail("divergence", f"a newcomer and the log: {difference}")

    async def _leave_all(self) -> None:
        """Everyone leaves: rooms go, their logs are compacted, nothing is kept, and the content is the same."""
        world = self.world
        before = {document_id: await world.load(document_id) for document_id in world.documents}
        for client in self._clients:
            client.leave_for_ever()
        instance = world.instance
        if not await self._wait_for(lambda: not len(instance.rooms) and not instance.rooms._tasks):
            world.fail("R13", f"nobody is here, yet {len(instance.rooms)} rooms and {instance.rooms._tasks} are")
        if instance.log_writer.unsaved_bytes or instance.budget.used:
            world.fail("R13", f"{instance.log_writer.unsaved_bytes} unsaved, {instance.budget.used} in flight")
        for document_id in world.documents:
            difference = (await world.load(document_id)).difference(before[document_id])
            if difference:
                world.fail("R7", f"compaction changed the document: {difference}")
