"""Presence over several instances, with stock clients and a bus that loses, repeats and reorders (R8, interleavings 6 and 7).

Whatever happened: once clients and bus are left in peace for as long as renewals take, everybody sees exactly who is there.
"""

import random
from uuid import UUID

import pytest

from constructure_sync.bus.contracts import DocumentMessage, PresenceAsked, PresenceChanged, RollCalled
from constructure_sync.protocol.awareness import decode_awareness
from constructure_sync.protocol.messages import awareness_message
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.presence import Attendee, Presence
from schemas.ids import UserId
from tests.properties.simulator.awareness import Awareness

LIMITS = RoomLimits()
TICK = 0.25


class Client:
    """A stock client: its awareness outlives its sockets."""

    def __init__(self, number: int, now: float) -> None:
        self.user_id = UserId(UUID(int=number))
        self.awareness = Awareness(1000 + number, now)
        self.instance: Instance | None = None
        self.attendee: Attendee | None = None

    @property
    def sees(self) -> set[int]:
        return set(self.awareness.states)


class Instance:
    """A room on one instance, with what has been published for it and not arrived."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.presence = Presence(LIMITS, number)
        self.clients: dict[Attendee, Client] = {}
        self.inbox: list[tuple[float, int, DocumentMessage]] = []

    @property
    def knows(self) -> set[int]:
        return {entry.client_id for payload in self.presence.everyone() for entry in decode_awareness(payload)}

    def publish(self, message: DocumentMessage) -> None:
        for other in self.world.instances:
            if other is not self:
                for _ in range(self.world.copies()):
                    other.inbox.append((self.world.now + self.world.delay(), self.number, message))

    def join(self, client: Client) -> None:
        now = self.world.now
        client.attendee = self.presence.attend(client.user_id, "somebody", now)
        client.instance = self
        client.awareness.forget_others()
        self.clients[client.attendee] = client
        self.receive(client.attendee, client.awareness.encode([client.awareness.client_id]))
        for payload in self.presence.everyone():
            self.tell(client, payload)

    def leave(self, attendee: Attendee) -> None:
        """The socket is noticed to be gone; its client may have been elsewhere for long."""
        del self.clients[attendee]
        self.presence.leave(attendee, self.world.now)

    def receive(self, attendee: Attendee, payload: bytes) -> None:
        if self.presence.is_echo(attendee, awareness_message(payload)):
            return
        answer = self.presence.receive(attendee, payload, self.world.now)
        if answer is not None:
            self.tell(self.clients[attendee], answer, attendee)

    def tell(self, client: Client, payload: bytes, attendee: Attendee | None = None) -> None:
        """Send to a client, which answers at once; nothing reaches one that has left that socket."""
        attendee = attendee or client.attendee
        if attendee is None or client.attendee is not attendee:
            return
        said = client.awareness.apply(payload, self.world.now)
        if said is not None:
            self.receive(attendee, said)

    def tick(self) -> None:
        now = self.world.now
        due = [letter for letter in self.inbox if letter[0] <= now]
        self.inbox = [letter for letter in self.inbox if letter[0] > now]
        for _, sender, message in due:
            self.hear(sender, message)
        self.presence.expire(now)
        if self.presence.call_roll(now):
            for attendee, client in list(self.clients.items()):
                nulls = self.presence.own_nulls(attendee)
                if nulls is not None:
                    self.tell(client, nulls, attendee)
        if self.presence.take_roll_call():
            self.publish(RollCalled())
        for payload in self.presence.take_changes():
            for attendee, client in list(self.clients.items()):
                self.tell(client, payload, attendee)
        self.presence.release_deferred()
        announcements = self.presence.take_announcements()
        if announcements:
            self.publish(PresenceChanged(announcements))

    def hear(self, sender: int, message: DocumentMessage) -> None:
        if isinstance(message, PresenceChanged):
            self.presence.take_elsewhere(sender, message.entries, self.world.now)
        elif isinstance(message, RollCalled):
            self.presence.must_call_roll(self.world.now)
        elif isinstance(message, PresenceAsked):
            self.publish(PresenceChanged(self.presence.own_announcements()))


class World:
    """Instances, clients, and the bus between them. loss, repeats: shares of messages; lateness: seconds at most."""

    def __init__(self, seed: int, instances: int, clients: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.loss, self.repeats, self.lateness = 0.0, 0.0, 0.0
        self._numbers = 0
        self.instances: list[Instance] = []
        for _ in range(instances):
            self.start_instance()
        self.clients = [Client(number, self.now) for number in range(clients)]
        self.half_open: list[tuple[Instance, Attendee]] = []

    def copies(self) -> int:
        return 0 if self.random.random() < self.loss else 2 if self.random.random() < self.repeats else 1

    def delay(self) -> float:
        return self.random.uniform(0.0, self.lateness)

    def start_instance(self) -> Instance:
        self._numbers += 1
        instance = Instance(self, self._numbers)
        self.instances.append(instance)
        instance.publish(PresenceAsked())
        return instance

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += TICK
            for client in self.clients:
                said = client.awareness.check(self.now)
                if said is not None and client.instance is not None and client.attendee is not None:
                    client.instance.receive(client.attendee, said)
            for instance in self.instances:
                instance.tick()

    def connect(self, client: Client, instance: "Instance") -> None:
        """A client's socket ends, and it joins another instance or the same."""
        self.disconnect(client)
        instance.join(client)

    def disconnect(self, client: Client) -> None:
        """A client's socket ends, which its instance notices now or much later."""
        instance, attendee = client.instance, client.attendee
        client.instance = client.attendee = None
        if instance is not None and attendee is not None:
            if self.random.random() < 0.5:
                self.half_open.append((instance, attendee))
            else:
                instance.leave(attendee)

    def kill(self, instance: Instance) -> None:
        """An instance is gone without a word, a fresh one starts; its clients go anywhere, with the clocks they had."""
        self.instances.remove(instance)
        self.half_open = [(at, attendee) for at, attendee in self.half_open if at is not instance]
        self.start_instance()
        for client in self.clients:
            if client.instance is instance:
                client.instance = client.attendee = None
                self.random.choice(self.instances).join(client)

    def notice_half_open(self) -> None:
        """Sockets whose clients are long gone are noticed to be dead."""
        for instance, attendee in self.half_open:
            instance.leave(attendee)
        self.half_open = []

    def misfortune(self) -> None:
        match self.random.randrange(9):
            case 0:
                self.kill(self.random.choice(self.instances))
            case 1 | 2 | 3:
                self.connect(self.random.choice(self.clients), self.random.choice(self.instances))
            case 4:
                self.notice_half_open()
            case 5:
                self.disconnect(self.random.choice(self.clients))
            case _:
                client = self.random.choice(self.clients)
                said = client.awareness.set_local(b'{"cursor":%d}' % self.random.randrange(99), self.now)
                if client.instance is not None and client.attendee is not None:
                    client.instance.receive(client.attendee, said)

    def everyone(self) -> set[int]:
        return {client.awareness.client_id for client in self.clients if client.instance is not None}

    def mistaken(self) -> list[tuple[str, int, set[int]]]:
        """Return the clients and instances that know of other people than there are, with whom they know of."""
        there = self.everyone()
        known = [("client", client.awareness.client_id, client.sees) for client in self.clients if client.instance]
        known += [("instance", instance.number, instance.knows) for instance in self.instances]
        return [each for each in known if each[2] != there]


def joined(seed: int, instances: int, clients: int) -> World:
    world = World(seed, instances, clients)
    for number, client in enumerate(world.clients):
        world.connect(client, world.instances[number % instances])
    world.run(3.0)
    assert not world.mistaken()
    return world


@pytest.mark.parametrize("seed", range(40))
def test_R8_after_any_misfortunes_everybody_sees_who_is_there(seed: int) -> None:
    world = joined(seed, instances=3, clients=7)
    world.loss, world.repeats, world.lateness = 0.3, 0.2, 5.0
    for _ in range(40):
        world.misfortune()
        world.run(world.random.choice([0.25, 0.25, 1.0, 8.0]))
    world.loss, world.lateness = 0.0, 0.0
    world.notice_half_open()
    world.run(100.0)
    assert not world.mistaken()


@pytest.mark.parametrize("seed", range(20))
def test_R8_clients_of_a_killed_instance_and_their_neighbours_see_one_another_at_once(seed: int) -> None:
    world = joined(seed, instances=3, clients=6)
    world.run(world.random.uniform(0.0, 60.0))
    world.kill(world.instances[0])
    world.run(1.5)  # far less than a renewal takes
    assert not world.mistaken()


@pytest.mark.parametrize("seed", range(20))
def test_R8_an_old_instances_late_word_never_hides_one_who_has_moved(seed: int) -> None:
    world = joined(seed, instances=3, clients=6)
    moving, old = world.clients[0], world.instances[0]
    assert moving.attendee is not None
    old.leave(moving.attendee)
    world.lateness = 20.0
    old.tick()
    world.lateness = 0.0
    moving.attendee = moving.instance = None
    world.connect(moving, world.random.choice(world.instances[1:]))
    world.run(1.5)
    for _ in range(100):
        assert not world.mistaken()
        world.run(TICK)


def test_R8_presence_does_not_go_round() -> None:
    world = joined(1, instances=3, clients=6)
    world.run(60.0)
    said = [client.awareness.set_local(b'{"cursor":1}', world.now) for client in world.clients[:1]]
    client = world.clients[0]
    assert client.instance is not None
    assert client.attendee is not None
    client.instance.receive(client.attendee, said[0])
    for instance in world.instances:
        instance.tick()
    published = [message for instance in world.instances for _, _, message in instance.inbox]
    assert len([message for message in published if isinstance(message, PresenceChanged)]) <= 2
