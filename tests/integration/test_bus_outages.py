"""The Redis bus when the server, the line or a subscriber fails: what may be lost is said, and it comes back (BU1 to BU4)."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import UUID

import pytest
from redis.crc import key_slot

from constructure_sync.bus.contracts import (
    ControlMessage,
    DocumentMessage,
    InstanceId,
    Invalidated,
    PresenceAsked,
    RollCalled,
    Saved,
)
from constructure_sync.bus.redis_bus import RedisBus, RedisLimits
from constructure_sync.observability import BUS_LOST
from schemas.ids import CommitId, DocumentId, Seq
from tests.redis_proxy import RedisProxy
from tests.valkey import Valkey
from tests.waiting import until

DOCUMENTS = [DocumentId(UUID(int=number)) for number in range(1, 21)]
ONE = DOCUMENTS[0]
QUICK = RedisLimits(time_limit=1.0, ping_interval=0.1, retry_delay=0.02, max_retry_delay=0.2)
RunBus = Callable[..., RedisBus]


def saved(number: int, size: int = 1) -> Saved:
    return Saved(Seq(number), Seq(number), CommitId(number), None, (bytes(size),))


class Ear:
    """Hears a document, and what concerns all. told_missed_before: how much had been heard when it was told that it missed some."""

    def __init__(self) -> None:
        self.messages: list[DocumentMessage] = []
        self.control: list[ControlMessage] = []
        self.misses = 0
        self.control_misses = 0

    @property
    def numbers(self) -> list[int]:
        return [message.first for message in self.messages if isinstance(message, Saved)]

    def heard(self, instance: InstanceId, message: DocumentMessage) -> None:
        self.messages.append(message)

    def missed(self) -> None:
        self.misses += 1

    def told(self, instance: InstanceId, message: ControlMessage) -> None:
        self.control.append(message)

    def missed_control(self) -> None:
        self.control_misses += 1


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    with Valkey(is_cluster=request.param) as valkey:
        yield valkey


@pytest.fixture(scope="module")
def plain_server() -> Iterator[Valkey]:
    with Valkey() as valkey:
        yield valkey


@pytest.fixture
async def run_bus() -> AsyncIterator[RunBus]:
    """Return what runs one more instance's bus to a URL until the test ends."""
    tasks: list[asyncio.Task[None]] = []

    def run(url: str, limits: RedisLimits = QUICK) -> RedisBus:
        number = len(tasks) + 1
        bus = RedisBus(url, "outages", number, asyncio.get_running_loop(), random.Random(number), limits)
        tasks.append(asyncio.create_task(bus.run()))
        return bus

    yield run
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended)


async def listening(bus: RedisBus) -> dict[DocumentId, Ear]:
    """Subscribe to all documents, once the bus is there."""
    await until(lambda: not bus.is_away)
    ears = {document: Ear() for document in DOCUMENTS}
    assert all(await asyncio.gather(*[bus.subscribe(document, ear, 10.0) for document, ear in ears.items()]))
    return ears


async def hears_again(one: RedisBus, ears: dict[DocumentId, Ear], number: int) -> None:
    """Everybody has been told that it may have missed something, and what is published after that is heard."""
    await until(lambda: all(ear.misses for ear in ears.values()))
    await until(lambda: not one.is_away)
    for document in DOCUMENTS:
        one.publish(document, saved(number))
    await until(lambda: all(number in ear.numbers for ear in ears.values()))


async def test_BU4_a_restarted_server_is_come_back_to_and_everyone_is_told(server: Valkey, run_bus: RunBus) -> None:
    one, two = run_bus(server.url), run_bus(server.url)
    control = Ear()
    two.listen(control)
    ears = await listening(two)
    before = control.control_misses
    server.kill()
    await until(lambda: one.is_away and two.is_away)
    late = Ear()
    assert not await two.subscribe(DocumentId(UUID(int=99)), late, 5.0)
    server.start()
    await hears_again(one, ears, 1)
    await until(lambda: late.misses == 1)
    one.publish(DocumentId(UUID(int=99)), RollCalled())
    await until(lambda: late.messages == [RollCalled()])
    assert control.control_misses > before


async def test_FLUSHALL_is_not_even_noticed(server: Valkey, run_bus: RunBus) -> None:
    one, two = run_bus(server.url), run_bus(server.url)
    ears = await listening(two)
    await until(lambda: not one.is_away)
    server.flush()
    one.publish(ONE, saved(1))
    await until(lambda: ears[ONE].numbers == [1])
    assert ears[ONE].misses == 0


async def test_BU4_a_connection_that_the_server_ends_is_made_again(server: Valkey, run_bus: RunBus) -> None:
    one, two = run_bus(server.url), run_bus(server.url)
    ears = await listening(two)
    await until(lambda: not one.is_away)
    assert server.kill_clients("pubsub") + server.kill_clients("normal") >= 2
    one.publish(ONE, saved(1))  # while nobody is connected: it waits
    await hears_again(one, ears, 2)
    one.publish(ONE, saved(3))
    await until(lambda: 3 in ears[ONE].numbers)


async def test_R13_a_server_that_is_silent_is_noticed(server: Valkey, run_bus: RunBus) -> None:
    one, two = run_bus(server.url), run_bus(server.url)
    ears = await listening(two)
    server.pause()
    try:
        await until(lambda: one.is_away and two.is_away)
        assert not await one.subscribe(ONE, Ear(), 5.0)
    finally:
        server.resume()
    await hears_again(one, ears, 1)


async def test_R13_a_half_open_line_is_noticed_and_its_words_are_sent_again(
    plain_server: Valkey, run_bus: RunBus
) -> None:
    async with (
        RedisProxy(plain_server.port, random.Random(1)) as near,
        RedisProxy(plain_server.port, random.Random(2)) as far,
    ):
        one, two = run_bus(near.url), run_bus(far.url)
        ears = await listening(two)
        await until(lambda: not one.is_away)
        near.hold()
        for number in range(1, 6):
            one.publish(ONE, saved(number))
        await until(lambda: one.is_away)
        assert not two.is_away
        near.release()
        await until(lambda: set(ears[ONE].numbers) == {1, 2, 3, 4, 5})
        far.hold()
        await until(lambda: two.is_away)
        one.publish(ONE, saved(6))
        far.release()
        await hears_again(one, ears, 7)


async def test_messages_lost_on_the_way_break_nothing(plain_server: Valkey, run_bus: RunBus) -> None:
    async with RedisProxy(plain_server.port, random.Random(7), loss=0.3) as proxy:
        one, two = run_bus(plain_server.url), run_bus(proxy.url)
        ears = await listening(two)
        await until(lambda: not one.is_away)
        for number in range(1, 501):
            one.publish(ONE, saved(number))
        await until(lambda: proxy.passed + proxy.lost >= 500)
        proxy.loss = 0.0
        one.publish(ONE, saved(501))
        await until(lambda: 501 in ears[ONE].numbers)
        assert len(ears[ONE].numbers) == 501 - proxy.lost
        assert 100 < proxy.lost < 200
        assert ears[ONE].misses == 0


async def test_BU1_BU4_beyond_its_bounds_the_backlog_loses_the_oldest_and_says_so(
    plain_server: Valkey, run_bus: RunBus
) -> None:
    async with RedisProxy(plain_server.port, random.Random(1)) as proxy:
        limits = RedisLimits(1.0, 0.1, 0.02, 0.2, waiting_messages=100, waiting_bytes=10_000)
        one, two = run_bus(proxy.url, limits), run_bus(plain_server.url)
        ears, lost = await listening(two), BUS_LOST.labels("Saved")._value.get()
        await until(lambda: not one.is_away)
        proxy.hold()
        proxy.cut()
        await until(lambda: one.is_away)
        for number in range(1, 1001):
            one.publish(ONE, saved(number))
        for number in range(1, 201):
            one.publish(DOCUMENTS[1], saved(number, 1000))
        proxy.release()
        await until(lambda: 200 in ears[DOCUMENTS[1]].numbers)
        numbers = ears[DOCUMENTS[1]].numbers
        assert numbers == list(range(numbers[0], 201))
        assert len(numbers) < 10
        assert ears[ONE].numbers == []
        assert (ears[ONE].misses, ears[DOCUMENTS[1]].misses, ears[DOCUMENTS[2]].misses) == (1, 1, 0)
        assert BUS_LOST.labels("Saved")._value.get() - lost == 1200 - len(numbers)


async def test_two_buses_that_answer_one_another_do_not_hear_themselves(server: Valkey, run_bus: RunBus) -> None:
    """Whoever hears PresenceAsked answers; nobody hears an answer of its own, so there is one of each and no more."""

    class Answering(Ear):
        def __init__(self, bus: RedisBus) -> None:
            super().__init__()
            self.bus = bus

        def heard(self, instance: InstanceId, message: DocumentMessage) -> None:
            super().heard(instance, message)
            if isinstance(message, PresenceAsked):
                self.bus.publish(ONE, RollCalled())

    buses = [run_bus(server.url) for _ in range(3)]
    ears = [Answering(bus) for bus in buses]
    await until(lambda: not any(bus.is_away for bus in buses))
    for bus, ear in zip(buses, ears, strict=True):
        assert await bus.subscribe(ONE, ear, 10.0)
    buses[0].publish(ONE, PresenceAsked())
    await until(lambda: len(ears[0].messages) == 2)
    buses[1].publish(ONE, saved(1))
    buses[2].publish(ONE, saved(2))
    await until(lambda: all(ear.numbers for ear in ears) and len(ears[0].numbers) == 2)
    assert ears[0].messages.count(RollCalled()) == 2
    assert [ears[n].messages.count(RollCalled()) for n in (1, 2)] == [1, 1]
    assert [ears[n].messages.count(PresenceAsked()) for n in (0, 1, 2)] == [0, 1, 1]


async def test_foreign_and_malformed_messages_are_counted_and_dropped(plain_server: Valkey, run_bus: RunBus) -> None:
    one, two = run_bus(plain_server.url), run_bus(plain_server.url)
    ears, unread = await listening(two), BUS_LOST.labels("Unreadable")._value.get()
    await until(lambda: not one.is_away)
    for words in ("", "hello", "\x02\x07\x00\x03", "x" * 100_000):
        plain_server.command("PUBLISH", f"outages:document:{ONE}", words)
    one.publish(ONE, saved(1))
    await until(lambda: ears[ONE].numbers == [1])
    assert BUS_LOST.labels("Unreadable")._value.get() - unread == 4


async def test_deployments_that_share_a_server_do_not_hear_one_another(plain_server: Valkey, run_bus: RunBus) -> None:
    one, two = run_bus(plain_server.url), run_bus(plain_server.url)
    loop = asyncio.get_running_loop()
    other = RedisBus(plain_server.url, "other", 9, loop, random.Random(9), QUICK)
    running = asyncio.create_task(other.run())
    try:
        ears, control = await listening(two), Ear()
        two.listen(control)
        await until(lambda: not one.is_away and not other.is_away)
        other.publish(ONE, saved(1))
        other.tell_all(Invalidated("course", UUID(int=1)))
        plain_server.command("PING")
        one.publish(ONE, saved(2))
        one.tell_all(Invalidated("course", UUID(int=2)))
        await until(lambda: ears[ONE].numbers and control.control)
        assert ears[ONE].numbers == [2]
        assert control.control == [Invalidated("course", UUID(int=2))]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_waits_when_an_instance_stops_is_still_sent(plain_server: Valkey, run_bus: RunBus) -> None:
    two = run_bus(plain_server.url)
    ears = await listening(two)
    loop = asyncio.get_running_loop()
    stopping = RedisBus(plain_server.url, "outages", 9, loop, random.Random(9), QUICK)
    running = asyncio.create_task(stopping.run())
    await until(lambda: not stopping.is_away)
    for number in range(1, 2001):
        stopping.publish(ONE, saved(number))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: ears[ONE].numbers == list(range(1, 2001)))


async def test_R13_what_waits_goes_out_as_earlier_messages_are_answered(plain_server: Valkey, run_bus: RunBus) -> None:
    one, two = run_bus(plain_server.url, RedisLimits(ping_interval=3600.0)), run_bus(plain_server.url)
    ears = await listening(two)
    await until(lambda: not one.is_away)
    for number in range(1, 2001):
        one.publish(ONE, saved(number))
    await until(lambda: ears[ONE].numbers == list(range(1, 2001)))


async def test_R13_nobody_waits_longer_for_a_subscription_when_the_line_breaks(
    plain_server: Valkey, run_bus: RunBus
) -> None:
    async with RedisProxy(plain_server.port, random.Random(1)) as proxy:
        bus = run_bus(proxy.url)
        await until(lambda: not bus.is_away)
        proxy.hold()
        subscribing = asyncio.create_task(bus.subscribe(ONE, Ear(), 3600.0))
        await asyncio.sleep(0)
        proxy.cut()
        async with asyncio.timeout(20.0):
            assert not await subscribing
        proxy.release()


async def test_the_bus_is_back_also_when_someone_has_just_left(plain_server: Valkey, run_bus: RunBus) -> None:
    class Leaving(Ear):
        def missed_control(self) -> None:
            super().missed_control()
            bus.unsubscribe(ONE)

    ear = Leaving()
    bus = run_bus(plain_server.url)
    bus.listen(ear)
    await until(lambda: ear.control_misses)
    await until(lambda: not bus.is_away)


async def test_what_the_server_refuses_is_not_sent_for_ever(plain_server: Valkey, run_bus: RunBus) -> None:
    plain_server.command("ACL", "SETUSER", "narrow", "on", ">secret", "+@all", "resetchannels", "&outages:control")
    lost = BUS_LOST.labels("Saved")._value.get()
    bus, two, control = run_bus(plain_server.url.replace("//", "//narrow:secret@")), run_bus(plain_server.url), Ear()
    two.listen(control)
    await until(lambda: not bus.is_away and not two.is_away)
    bus.publish(ONE, saved(1))
    bus.tell_all(Invalidated("course", UUID(int=1)))
    await until(lambda: Invalidated("course", UUID(int=1)) in control.control)
    await until(lambda: not bus.is_away)
    assert BUS_LOST.labels("Saved")._value.get() - lost == 1


@pytest.mark.parametrize("server", [True], ids=["cluster"], indirect=True)
async def test_BU4_a_slot_that_moves_is_followed(server: Valkey, run_bus: RunBus) -> None:
    one, two = run_bus(server.url), run_bus(server.url)
    ears = await listening(two)
    await until(lambda: not one.is_away)
    slot = str(key_slot(f"outages:document:{ONE}".encode()))
    server.command("CLUSTER", "DELSLOTS", slot)
    await until(lambda: two.is_away)
    server.command("CLUSTER", "ADDSLOTS", slot)
    await hears_again(one, ears, 1)


async def test_an_unusable_url_says_so_at_once() -> None:
    with pytest.raises(ValueError, match="one of the following schemes"):
        RedisBus("kafka://host", "outages", 1, asyncio.get_running_loop(), random.Random(1))
