"""Light clients over several courses: they write at a steady pace, and tell whether all of them hold the same."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from tests.cluster import Course
from tests.light_client import Arrival, LightClient

CHECK_SECONDS: Final = 0.02  # between two looks at a condition
_TICK: Final = 0.02  # seconds between two rounds of edits
_WINDOW: Final = 400  # edits of one client that may wait for their receipts


class TookTooLong(Exception):
    """A condition did not come true in time."""


async def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until a condition is true and return how long that took. what: for the words of TookTooLong."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TookTooLong(f"{what}: not within {seconds:.0f} s")
        await asyncio.sleep(CHECK_SECONDS)
    return time.monotonic() - started


def gather_crowd(
    courses: Sequence[Course],
    per_course: int,
    address: Callable[[Course, int], Callable[[], str]],
    randomness: random.Random,
    on_arrival: Arrival | None = None,
) -> "Crowd":
    """Make clients for each course.

    address: gives, for a course and the number of a client (counted over all courses), where each of its attempts goes.
    on_arrival: see LightClient.
    """
    groups: dict[Course, list[LightClient]] = {}
    numbers = itertools.count()
    for course in courses:
        groups[course] = []
        for _ in range(per_course):
            number = next(numbers)
            seed = random.Random(randomness.random())
            groups[course].append(LightClient(f"client{number}", address(course, number), seed, on_arrival))
    return Crowd(groups, randomness)


def going_round(ports: Sequence[int]) -> Callable[[Course, int], Callable[[], str]]:
    """Return the addresses of clients that start on instances in turn, and go to the next one after every end."""

    def address(course: Course, number: int) -> Callable[[], str]:
        attempts = itertools.count(number)
        return lambda: course.url(ports[next(attempts) % len(ports)])

    return address


class Crowd:
    """The clients of some courses. groups: by course."""

    def __init__(self, groups: Mapping[Course, Sequence[LightClient]], randomness: random.Random) -> None:
        self.groups = {course: tuple(clients) for course, clients in groups.items()}
        self.clients = tuple(client for clients in self.groups.values() for client in clients)
        self._randomness = randomness

    @property
    def acknowledged(self) -> int:
        """Edits with a receipt, in all."""
        return sum(client.acknowledged for client in self.clients)

    @property
    def in_flight(self) -> int:
        """Edits without a receipt, in all."""
        return sum(client.in_flight for client in self.clients)

    def acknowledged_edits(self) -> dict[str, set[str]]:
        """Return the keys of the edits with a receipt, by the course's id."""
        return {
            course.id: {key for client in clients for key in client.acknowledged_keys()}
            for course, clients in self.groups.items()
        }

    @contextlib.asynccontextmanager
    async def connected(self, seconds: float = 30) -> AsyncIterator[None]:
        """Have all connected, from the moment at which all are synced, to the end of the block."""
        tasks = [asyncio.create_task(client.stay(), name=client.name) for client in self.clients]
        try:
            await self.synced(seconds)
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for client in self.clients:
                client.stop_observing()
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    @contextlib.asynccontextmanager
    async def writing(self, per_second: float, clients: Sequence[LightClient] | None = None) -> AsyncIterator[None]:
        """Have random clients edit, so many edits a second in all, to the end of the block; connected or not."""
        task = asyncio.create_task(self._write(per_second, clients or self.clients))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _write(self, per_second: float, clients: Sequence[LightClient]) -> None:
        due, last = 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            due, last = min(due + (now - last) * per_second, per_second), now
            while due >= 1:
                due -= 1
                client = self._randomness.choice(clients)
                if client.in_flight < _WINDOW:
                    client.edit()
            await asyncio.sleep(_TICK)

    async def synced(self, seconds: float) -> float:
        """Wait until all are synced; return how long that took."""
        return await until(lambda: all(client.is_synced for client in self.clients), seconds, "all are synced")

    async def acknowledges(self, seconds: float) -> float:
        """Wait until what connected clients have made by now is acknowledged; return how long that took."""
        made = [(client, client.made) for client in self.clients]
        return await until(
            lambda: all(client.acknowledged >= own or not client.is_synced for client, own in made),
            seconds,
            "every edit is acknowledged",
        )

    async def caught_up(self, seconds: float) -> float:
        """Wait until what is made by now is acknowledged and with everybody; return how long that took."""
        groups = [(clients, [client.made for client in clients]) for clients in self.groups.values()]

        def holds() -> bool:
            while groups and _has_caught_up(*groups[-1]):
                groups.pop()  # what has arrived stays
            return not groups

        try:
            return await until(holds, seconds, "every edit is acknowledged and with everybody")
        except TookTooLong as late:
            raise TookTooLong(f"{late}: {'; '.join(_lags(*groups[-1]))}") from None

    async def settled(self, seconds: float) -> float:
        """Wait until, nobody writing any more, all hold the same; return how long that took."""
        return await self.caught_up(seconds) + await until(self._is_settled, seconds, "all hold the same")

    def _is_settled(self) -> bool:
        return all(
            one.state() == other.state()
            for clients in self.groups.values()
            for one, other in itertools.pairwise(clients)
        )

    def differences(self) -> list[str]:
        """Return who holds something else than the first client of the course."""
        return [
            f"{client.name} differs from {first.name}"
            for first, *others in self.groups.values()
            for client in others
            if client.state() != first.state() or client.content() != first.content()
        ]


def _has_caught_up(clients: Sequence[LightClient], made: Sequence[int]) -> bool:
    return all(
        client.acknowledged >= own
        and client.is_synced
        and all(client.has_all_of(other, count) for other, count in zip(clients, made, strict=True))
        for client, own in zip(clients, made, strict=True)
    )


def _lags(clients: Sequence[LightClient], made: Sequence[int]) -> list[str]:
    """Say what is missing among the clients of one course."""
    lags = [f"{each.name} is not synced" for each in clients if not each.is_synced]
    lags += [
        f"{each.name} has {each.acknowledged} of {own} edits acknowledged"
        for each, own in zip(clients, made, strict=True)
        if each.acknowledged < own
    ]
    return lags + [
        f"{each.name} lacks {other.name}.{count}"
        for each in clients
        for other, count in zip(clients, made, strict=True)
        if not each.has_all_of(other, count)
    ]
