"""The bus inside one process, beyond what every bus promises: order, bounds, an endpoint's end."""

import asyncio
from uuid import UUID

from constructure_sync.bus.contracts import DocumentMessage, InstanceId, PresenceAsked, RollCalled
from constructure_sync.bus.local import LocalBus, LocalHub
from schemas.ids import DocumentId

DOCUMENT = DocumentId(UUID(int=1))


class Ear:
    def __init__(self) -> None:
        self.messages: list[DocumentMessage] = []
        self.misses = 0

    def heard(self, instance: InstanceId, message: DocumentMessage) -> None:
        self.messages.append(message)

    def missed(self) -> None:
        self.misses += 1


async def test_BU5_nobody_is_called_inside_the_step_that_publishes() -> None:
    loop, hub, ear = asyncio.get_running_loop(), LocalHub(), Ear()
    one, two = LocalBus(hub, 1, loop), LocalBus(hub, 2, loop)
    await two.subscribe(DOCUMENT, ear, 1.0)
    one.publish(DOCUMENT, RollCalled())
    assert ear.messages == []
    await asyncio.sleep(0)
    assert ear.messages == [RollCalled()]


async def test_BU1_BU4_beyond_the_bound_the_oldest_are_lost_and_that_is_told() -> None:
    loop, hub, ear = asyncio.get_running_loop(), LocalHub(), Ear()
    one, two = LocalBus(hub, 1, loop), LocalBus(hub, 2, loop, waiting_messages=2)
    await two.subscribe(DOCUMENT, ear, 1.0)
    for message in (PresenceAsked(), RollCalled(), RollCalled()):
        one.publish(DOCUMENT, message)
    await asyncio.sleep(0)
    assert ear.messages == [RollCalled(), RollCalled()]
    assert ear.misses == 1


async def test_an_endpoint_that_is_no_longer_run_hears_nothing() -> None:
    loop, hub, ear = asyncio.get_running_loop(), LocalHub(), Ear()
    one, two = LocalBus(hub, 1, loop), LocalBus(hub, 2, loop)
    await two.subscribe(DOCUMENT, ear, 1.0)
    running = loop.create_task(two.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    one.publish(DOCUMENT, RollCalled())
    await asyncio.sleep(0)
    assert ear.messages == []
