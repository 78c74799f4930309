"""What goes wrong in a schedule, and what people do meanwhile: each action is one step, drawn by weight."""

from collections.abc import Callable

from tests.properties.simulator.client import Client
from tests.properties.simulator.instance import Instance
from tests.properties.simulator.storage import Weather
from tests.properties.simulator.world import World

_MOST_BACKWARD = 4


class Misfortunes:
    """The actions of one world, and how often each is drawn."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._random = world.random
        self._is_over = False
        self._actions: list[tuple[float, Callable[[], None]]] = [
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
            (0.7, self._stop),
            (1, self._close_tab),
            (1, self._open_second_tab),
            (1, self._lower_role),
            (4, self._compact),
        ]
        if len(world.machines) > 1:
            self._actions += [
                (3, self._trouble_the_bus),
                (2, self._calm_the_bus),
                (2, self._part_from_the_bus),
                (3, self._come_back_to_the_bus),
                (1, self._blink),
            ]
        if world.may_be_set_back:
            self._actions += [(1, world.ledger.back_up), (6, self._set_back)]
        # Each schedule has a mood of its own: what is rare in one is common in another.
        self._weights = [weight * self._random.choice((0.2, 1.0, 1.0, 5.0)) for weight, _ in self._actions]
        if self._random.random() < 0.3:
            self._change_weather()
        world.hub.is_deaf = self._random.random() < 0.08

    def strike(self) -> None:
        """Let one thing happen."""
        self._random.choices(self._actions, self._weights)[0][1]()

    def end(self) -> None:
        """Put everything right again but a deaf bus: there the look at the logs' heads has to do."""
        self._is_over = True
        self.world.may_be_set_back = False
        for number in range(len(self.world.instances)):
            self.world.restart(number)
        for instance in self.world.instances:
            self._clear_up_at(instance)
            instance.workers.failures = instance.compacting.failures = 0
            self._reach_the_bus(instance)
        self._calm_the_bus()

    @property
    def _clients(self) -> list[Client]:
        return [client for client in self.world.clients if not client.is_gone]

    @property
    def _instance(self) -> Instance:
        return self._random.choice(self.world.instances)

    # ------------------------------------------------------------------ people

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

    # ------------------------------------------------------------------ their lines

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

    # ------------------------------------------------------------------ databases

    def _change_weather(self) -> None:
        """The database does badly, for one instance or for all."""
        everyone = self.world.machines
        machines = everyone if self._random.random() < 0.5 else [self._random.choice(everyone)]
        for machine in machines:
            weather, random = machine.weather, self._random
            weather.delay = random.choice((0.0, 0.002, 0.05, 1.0))
            weather.is_away = random.random() < 0.3
            weather.fail_before = random.choice((0.0, 0.0, 0.5))
            weather.fail_after = random.choice((0.0, 0.0, 0.5))
            weather.hang = random.choice((0.0, 0.0, 0.1))
            weather.late = random.choice((0.0, 0.0, 0.3))
            weather.locked = random.choice((None, None, *self.world.documents))
            weather.stranded_is_away = random.random() < 0.2

    def _clear_up(self) -> None:
        for instance in self.world.instances:
            if self._random.random() < 0.8:
                self._clear_up_at(instance)

    def _clear_up_at(self, instance: Instance) -> None:
        weather, calm = instance.machine.weather, Weather()
        for name in Weather.__slots__:
            setattr(weather, name, getattr(calm, name))

    def _compact(self) -> None:
        """Some instances compact one document at about the same time."""
        document_id = self._random.choice(self.world.documents)
        for instance in self.world.running:
            if self._random.random() < 0.8:
                instance.loop.call_later(self._random.choice((0.0, 0.0, 0.5, 2.0)), instance.compact, document_id)

    def _set_back(self) -> None:
        """The database is lost, and another takes its place that lacks the newest commits; perhaps more is lost with it.

        Everyone is just writing, and goes on.
        """
        world, chance = self.world, self._random.random
        if world.ledger.epoch >= _MOST_BACKWARD:
            return
        if chance() < 0.5:
            world.hub.loss = 1.0
        for client in self._clients:
            if client.can_write:
                client.edit()
        world.loop.call_later(0.02, self._compact)
        world.loop.call_later(0.04 + chance() * 0.2, world.set_back)
        if chance() < 0.3:
            self._crash()
        for _ in range(4):
            world.loop.call_later(chance() * 1.5, self._go_on)

    def _go_on(self) -> None:
        if not self._is_over:
            self._type_fast()

    # ------------------------------------------------------------------ instances

    def _lose_worker(self) -> None:
        instance = self._instance
        instance.workers.failures = instance.compacting.failures = self._random.choice((1, 1, 3))

    def _crash(self) -> None:
        self.world.crash(self._random.randrange(len(self.world.instances)), self._random.choice((0.0, 0.0, 2.0, 50.0)))

    def _stop(self) -> None:
        self.world.stop(self._random.randrange(len(self.world.instances)), self._random.choice((0.0, 0.0, 20.0)))

    # ------------------------------------------------------------------ the bus

    def _trouble_the_bus(self) -> None:
        hub, random = self.world.hub, self._random
        hub.delay = random.choice((0.0, 0.002, 0.03, 0.3, 3.0))
        hub.loss = random.choice((0.0, 0.0, 0.3, 1.0))
        hub.repeats = random.choice((0.0, 0.0, 0.5))
        hub.is_ordered = random.random() < 0.5
        self._instance.machine.line.loss = random.choice((0.0, 0.3, 1.0))

    def _calm_the_bus(self) -> None:
        hub = self.world.hub
        hub.delay, hub.loss, hub.repeats, hub.is_ordered = 0.002, 0.0, 0.0, True
        for machine in self.world.machines:
            machine.line.loss = 0.0

    def _part_from_the_bus(self) -> None:
        """One instance cannot reach the bus, or nobody can."""
        instances = self.world.instances
        for instance in instances if self._random.random() < 0.3 else [self._instance]:
            instance.bus.lose_connection()

    def _come_back_to_the_bus(self) -> None:
        for instance in self.world.instances:
            if self._random.random() < 0.7:
                self._reach_the_bus(instance)

    def _reach_the_bus(self, instance: Instance) -> None:
        if instance.machine.line.is_away:
            instance.bus.connect()

    def _blink(self) -> None:
        """A connection to the bus breaks, and is there again at once."""
        instance = self._instance
        instance.bus.lose_connection()
        instance.bus.connect()
