"""What every bus promises (constructure_sync/bus/contracts.py), rule by rule, over every bus there is."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from uuid import UUID, uuid4

import pytest

from constructure_sync.bus.contracts import (
    Bus,
    ControlMessage,
    DocumentMessage,
    InstanceId,
    Invalidated,
    PresenceAsked,
    PresenceChanged,
    PresenceEntry,
    RightsChanged,
    RollCalled,
    Saved,
)
from constructure_sync.bus.local import LocalBus, LocalHub
from constructure_sync.bus.redis_bus import RedisBus
from constructure_sync.protocol.awareness import AwarenessEntry
from schemas.ids import CommitId, CourseId, DocumentId, Seq, UserId
from tests.valkey import Valkey
from tests.waiting import until

ONE, OTHER = DocumentId(UUID(int=1)), DocumentId(UUID(int=2))
MESSAGES: list[DocumentMessage] = [
    Saved(Seq(1), Seq(2), CommitId(2**62), CommitId(0), (b"one", b"two")),
    Saved(Seq(3), Seq(9), CommitId(4), None, None),
    PresenceChanged([PresenceEntry(3, UserId(UUID(int=8)), AwarenessEntry(2**53 - 1, 4, b'{"a":1}'))]),
    PresenceAsked(),
    RollCalled(),
]


class Ear:
    """Hears a document, and what concerns all."""

    def __init__(self) -> None:
        self.messages: list[tuple[InstanceId, DocumentMessage]] = []
        self.control: list[tuple[InstanceId, ControlMessage]] = []
        self.misses = 0

    def heard(self, instance: InstanceId, message: DocumentMessage) -> None:
        self.messages.append((instance, message))

    def missed(self) -> None:
        self.misses += 1

    def told(self, instance: InstanceId, message: ControlMessage) -> None:
        self.control.append((instance, message))

    def missed_control(self) -> None:
        pass


class FaultyEar(Ear):
    """Cannot bear what it hears."""

    def heard(self, instance: InstanceId, message: DocumentMessage) -> None:
        super().heard(instance, message)
        raise ValueError("a fault of the subscriber")

    def told(self, instance: InstanceId, message: ControlMessage) -> None:
        super().told(instance, message)
        raise ValueError("a fault of the subscriber")


@pytest.fixture(scope="module", params=["local", "valkey", "valkey-cluster"])
def backend(request: pytest.FixtureRequest) -> Iterator[Callable[[InstanceId, str], Bus]]:
    """Return what makes an instance's end of a bus: of its number, and a prefix that tells test from test."""
    if request.param == "local":
        hubs: dict[str, LocalHub] = {}
        yield lambda number, prefix: LocalBus(hubs.setdefault(prefix, LocalHub()), number, asyncio.get_running_loop())
        return
    with Valkey(is_cluster=request.param == "valkey-cluster") as server:
        yield lambda number, prefix: RedisBus(
            server.url, prefix, number, asyncio.get_running_loop(), random.Random(number)
        )


@pytest.fixture
async def connect(backend: Callable[[InstanceId, str], Bus]) -> AsyncIterator[Callable[[], Bus]]:
    """Return what gives one more instance of this test, whose bus runs."""
    tasks, numbers, prefix = list[asyncio.Task[None]](), itertools.count(101), uuid4().hex

    def make() -> Bus:
        bus = backend(next(numbers), prefix)
        tasks.append(asyncio.create_task(bus.run()))
        return bus

    yield make
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended)


async def connected(*buses: Bus) -> None:
    await until(lambda: not any(bus.is_away for bus in buses))


async def test_what_others_publish_is_heard_as_it_was(connect: Callable[[], Bus]) -> None:
    one, two, ear = connect(), connect(), Ear()
    await connected(one, two)
    assert await two.subscribe(ONE, ear, 5.0)
    for message in MESSAGES:
        one.publish(ONE, message)
    await until(lambda: len(ear.messages) == len(MESSAGES))
    assert ear.messages == [(101, message) for message in MESSAGES]


async def test_BU2_what_an_instance_publishes_does_not_come_back(connect: Callable[[], Bus]) -> None:
    one, two, near, far = connect(), connect(), Ear(), Ear()
    await connected(one, two)
    assert await one.subscribe(ONE, near, 5.0)
    assert await two.subscribe(ONE, far, 5.0)
    one.publish(ONE, RollCalled())
    await until(lambda: bool(far.messages))
    two.publish(ONE, PresenceAsked())
    await until(lambda: bool(near.messages))
    assert near.messages == [(102, PresenceAsked())]
    assert far.messages == [(101, RollCalled())]


async def test_BU2_documents_are_apart_and_who_has_left_hears_nothing(connect: Callable[[], Bus]) -> None:
    one, two, ear, other = connect(), connect(), Ear(), Ear()
    await connected(one, two)
    assert await two.subscribe(ONE, ear, 5.0)
    assert await two.subscribe(OTHER, other, 5.0)
    two.unsubscribe(ONE)
    one.publish(ONE, RollCalled())
    one.publish(OTHER, PresenceAsked())
    await until(lambda: bool(other.messages))
    assert ear.messages == []
    assert other.messages == [(101, PresenceAsked())]


async def test_BU3_from_a_true_subscription_on_everything_is_heard(connect: Callable[[], Bus]) -> None:
    one, two = connect(), connect()
    await connected(one, two)
    for number in range(30):
        ear, document = Ear(), DocumentId(UUID(int=100 + number))
        assert await two.subscribe(document, ear, 5.0)
        two.unsubscribe(document)
        assert await two.subscribe(document, ear, 5.0)
        one.publish(document, RollCalled())
        await until(partial(bool, ear.messages))
        assert ear.misses == 0


async def test_BU3_a_later_subscriber_takes_the_place_of_an_earlier_one(connect: Callable[[], Bus]) -> None:
    one, two, old, new = connect(), connect(), Ear(), Ear()
    await connected(one, two)
    async with asyncio.timeout(20.0):
        _, is_second_established = await asyncio.gather(
            two.subscribe(ONE, old, 3600.0), two.subscribe(ONE, new, 3600.0)
        )
    assert is_second_established
    one.publish(ONE, RollCalled())
    await until(lambda: bool(new.messages))
    assert old.messages == []


async def test_BU5_a_faulty_subscriber_harms_nobody(connect: Callable[[], Bus]) -> None:
    one, two, faulty, ear = connect(), connect(), FaultyEar(), Ear()
    two.listen(faulty)
    await connected(one, two)
    assert await two.subscribe(ONE, faulty, 5.0)
    assert await two.subscribe(OTHER, ear, 5.0)
    one.publish(ONE, RollCalled())
    one.tell_all(RightsChanged(CourseId(UUID(int=5))))
    one.publish(ONE, RollCalled())
    one.publish(OTHER, RollCalled())
    await until(lambda: len(ear.messages) == 1 and len(faulty.messages) == 2 and len(faulty.control) == 1)


async def test_control_messages_reach_everybody_else(connect: Callable[[], Bus]) -> None:
    buses, ears = [connect() for _ in range(3)], [Ear() for _ in range(3)]
    for bus, ear in zip(buses, ears, strict=True):
        bus.listen(ear)
    await connected(*buses)
    said: list[ControlMessage] = [RightsChanged(CourseId(UUID(int=5))), Invalidated("course", UUID(int=6))]
    for message in said:
        buses[0].tell_all(message)
    await until(lambda: len(ears[1].control) == len(ears[2].control) == 2)
    assert ears[1].control == ears[2].control == [(101, message) for message in said]
    assert ears[0].control == []


async def test_many_documents_at_once(connect: Callable[[], Bus]) -> None:
    one, two = connect(), connect()
    await connected(one, two)
    documents = [DocumentId(UUID(int=1000 + number)) for number in range(300)]
    ears = {document: Ear() for document in documents}
    assert all(await asyncio.gather(*[two.subscribe(document, ears[document], 10.0) for document in documents]))
    for number in range(10):
        for document in documents:
            one.publish(document, Saved(Seq(number + 1), Seq(number + 1), CommitId(number + 1), None, (b"x",)))
    await until(lambda: all(len(ear.messages) == 10 for ear in ears.values()))
    for ear in ears.values():
        assert [saved.first for _, saved in ear.messages if isinstance(saved, Saved)] == list(range(1, 11))
        assert ear.misses == 0
