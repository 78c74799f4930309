"""Runs one seed: misfortunes first, then peace, then the final comparison."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from structlog.testing import capture_logs

from constructure_sync.persistence.compactor import RAW_ROWS_FLOOR_SECONDS
from tests.properties.simulator.client import Client
from tests.properties.simulator.instance import Instance
from tests.properties.simulator.loop import VirtualLoop, run_virtually
from tests.properties.simulator.misfortunes import Misfortunes
from tests.properties.simulator.world import View, World

_NEVER_LOGGED = {"room_failed", "upkeep_failed", "journal_failed", "bus_subscriber_failed", "document_gone"}
"""What only a fault of the core brings about."""
_OF_ANOTHER_LOG = {"log_diverged", "saved_update_does_not_fit"}
"""What else only a log brings about that was set back, or whose rows were purged before everyone had read them."""
_SILENCE = 40.0
_RENEWALS = 6  # of one client's presence in that time, with all that it is told to whom


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one schedule showed.

    lost: acknowledged edits that a fresh load does not hold; vanished: those that nobody held when the log was set back, and
    nobody has had since. set_back: how often that was done.
    """

    seed: int
    violations: tuple[str, ...]
    edits: int
    acknowledged: int
    lost: int
    vanished: int
    set_back: int
    seconds: float


def run_schedule(seed: int) -> Outcome:
    """Run the schedule of this seed."""

    async def main(loop: VirtualLoop) -> tuple[Outcome, bool]:
        world = World(loop, seed)
        loop.set_exception_handler(lambda _, context: world.fail("error", f"{context.get('exception', context)!r}"))
        try:
            await Schedule(world).run()
        except Exception as error:
            world.fail("error", repr(error))
        for client in world.clients:
            client.forget()
        is_another = world.ledger.epoch > 0 or world.is_purged_early or loop.time() > RAW_ROWS_FLOOR_SECONDS
        outcome = Outcome(
            seed,
            tuple(world.violations),
            sum(client.keys for client in world.clients),
            world.acknowledged,
            world.lost,
            world.vanished,
            world.ledger.epoch,
            loop.time(),
        )
        return outcome, is_another

    with capture_logs() as logs:
        outcome, is_another = run_virtually(main)
    faults = _NEVER_LOGGED if is_another else _NEVER_LOGGED | _OF_ANOTHER_LOG
    failed = [f"error: {log}" for log in logs if log["event"] in faults]
    if failed and not outcome.violations:
        return replace(outcome, violations=tuple(failed))
    return outcome


class Schedule:
    """The misfortunes of one world, and its end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._random = world.random
        self._misfortunes = Misfortunes(world)

    @property
    def _clients(self) -> list[Client]:
        return [client for client in self.world.clients if not client.is_gone]

    async def run(self) -> None:
        """Live through it all."""
        world, random = self.world, self._random
        pace = random.choice((0.001, 0.02, 0.3))
        for _ in range(random.randint(10, 90)):
            await asyncio.sleep(random.expovariate(1.0) * pace if random.random() < 0.97 else random.uniform(5, 70))
            self._misfortunes.strike()
            self._check_bounds()
            world.witness.look_at_rooms()
            if world.violations:
                return
        for phase in (
            self._make_peace,
            self._compare,
            self._write_once,
            self._keep_silent,
            self._join_afresh,
            self._leave_all,
        ):
            await phase()
            if world.violations:
                return

    def _check_bounds(self) -> None:
        world = self.world
        if world.ledger.epoch:
            return  # what a log that was set back lacks is offered again at once
        for instance in world.running:
            unsaved = instance.log_writer.unsaved_bytes
            if unsaved > world.limits.commits.unsaved_bytes + world.witness.largest:
                world.fail("R13", f"{unsaved} bytes are unsaved")

    # ------------------------------------------------------------------ peace

    async def _make_peace(self) -> None:
        self._misfortunes.end()
        await self.world.stopped()
        self._misfortunes.end()
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
        self.world.witness.look_at_rooms()
        return (
            not any(instance.log_writer.unsaved_bytes for instance in self.world.running)
            and not self.world.ledger.late
            and not any(map(self._is_restless, self._clients))
            and not self._rooms_behind()
        )

    def _rooms_behind(self) -> str:
        """Say which rooms are not equal to their log, or do not stand at its end (R6)."""
        world = self.world
        return "; ".join(
            f"a room of {document_id.int} stands at {world.place(room)} of {book.head}, has {room.history.known.clocks}"
            for document_id, book in world.ledger.books.items()
            for room in world.rooms(document_id)
            if world.place(room) != book.head
            or room.history.known.clocks != book.known.clocks
            or room.history.known.deletes != book.known.deletes
        )

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
        ) + (self._rooms_behind() or f"; {self.world.ledger.late} late")

    def _is_everyone_seen(self) -> bool:
        return self._is_quiet() and not self._unseen()

    def _unseen(self) -> str:
        shown = [client for client in self._clients if not client.is_shy]
        return "; ".join(
            f"{client.number} sees {sorted(client.awareness.states)}"
            for client in shown
            if set(client.awareness.states)
            != {
                other.number for other in shown if other.document_id == client.document_id and self._meet(client, other)
            }
        )

    def _meet(self, one: Client, other: Client) -> bool:
        """Whether two clients can hear of each other: over a deaf bus only on one instance."""
        if not self.world.hub.is_deaf or one.wire is None or other.wire is None:
            return True
        return one.wire.instance is other.wire.instance

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
            gone = [n for n in range(client.acknowledged) if f"{client.number}.{n}" not in fresh.map]
            may_be_lost = self.world.ledger.may_be_lost
            lost = [n for n in gone if not may_be_lost(client.document_id, client.number, client.key_clocks[n])]
            self.world.acknowledged += client.acknowledged
            self.world.vanished += len(gone) - len(lost)
            self.world.lost += len(lost)
            if lost:
                self.world.fail("R1", f"acknowledged edits of {client.number} are lost: {lost}")

    async def _write_once(self) -> None:
        """One edit is written once, and told once (R6): no instance saves again what it has heard."""
        world = self.world
        client = next(client for client in self._clients if client.can_write)
        written, sent = world.ledger.written, len(client.writes)
        client.edit()
        sent = len(client.writes) - sent
        await asyncio.sleep(1.0)
        if not await self._wait_for(self._is_quiet):
            world.fail("R6", "one edit does not reach everybody: " + self._restless())
        if world.ledger.written - written != sent:
            world.fail("R6", f"{sent} updates were written {world.ledger.written - written} times")

    async def _keep_silent(self) -> None:
        """Nobody does anything: nothing is written, and instances tell one another only that people are still there."""
        world = self.world
        written, told = world.ledger.written, world.witness.messages
        await asyncio.sleep(_SILENCE)
        if world.ledger.written != written:
            world.fail("R12", f"{world.ledger.written - written} updates were written while nobody did anything")
        told = world.witness.messages - told
        if told > _RENEWALS * (len(self._clients) + 1):
            world.fail("R6", f"{told} messages crossed the bus while nobody did anything")

    async def _join_afresh(self) -> None:
        """R5 and R12: newcomers have everything, and their joining writes nothing."""
        world = self.world
        newcomers = [world.new_client(90 + n, can_write=n == 0) for n in range(2)]
        if not await self._wait_for(self._is_quiet):
            world.fail("R5", "newcomers are not in step: " + self._restless())
            return
        for client in newcomers:
            if client.user_id in world.ledger.authors:
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
        for instance in world.running:
            await self._empty(instance)
        for document_id in world.documents:
            difference = (await world.load(document_id)).difference(before[document_id])
            if difference:
                world.fail("R7", f"compaction changed the document: {difference}")

    async def _empty(self, instance: Instance) -> None:
        def is_empty() -> bool:
            return not len(instance.rooms) and not instance.rooms._tasks

        if not await self._wait_for(is_empty):
            self.world.fail("R13", f"nobody is here, yet {len(instance.rooms)} rooms and {instance.rooms._tasks} are")
        if instance.log_writer.unsaved_bytes or instance.budget.used:
            self.world.fail("R13", f"{instance.log_writer.unsaved_bytes} unsaved, {instance.budget.used} in flight")
