"""Places are counted exactly; a drain sends every socket away once, spread over its seconds, and can be hurried."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from constructure_sync.transport.acceptor import Acceptor, SocketLimits
from constructure_sync.transport.admission import Admitted, Refusal, Refused, UpgradeRequest, parse_handshake
from tests.unit.transport.harness import ORIGIN, upgrade_request


async def refuse(request: UpgradeRequest) -> Admitted | Refused:
    return Refused(401, "unauthenticated", "No.")


class Leaving:
    """An open socket that notes when it was told to go."""

    def __init__(self, acceptor: Acceptor, now: Callable[[], float]) -> None:
        self.acceptor = acceptor
        self.now = now
        self.left: list[tuple[float, int]] = []
        self.checked: list[float] = []
        acceptor.add(self)

    def check(self, now: float) -> None:
        self.checked.append(now)

    def close(self, code: int, reason: str) -> None:
        if not self.left:
            self.left.append((self.now(), code))
            self.acceptor.remove(self)


class Sleeper:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.after: Callable[[float], None] = lambda now: None

    def __call__(self, seconds: float) -> Awaitable[None]:
        self.now += seconds
        self.after(self.now)
        return asyncio.sleep(0)


def make(sleeper: Sleeper, seed: int = 7, limits: SocketLimits | None = None) -> Acceptor:
    return Acceptor(refuse, [ORIGIN], limits, randomness=random.Random(seed), sleep=sleeper, clock=lambda: sleeper.now)


async def test_a_drain_spreads_the_departures() -> None:
    sleeper = Sleeper()
    acceptor = make(sleeper)
    sockets = [Leaving(acceptor, lambda: sleeper.now) for _ in range(300)]
    await acceptor.drain(3)
    assert all([code for _, code in socket.left] == [1012] for socket in sockets)
    times = sorted(socket.left[0][0] for socket in sockets)
    assert times[-1] <= 3
    for third in range(3):
        assert 60 <= sum(third <= time + 1e-6 < third + 1 for time in times) <= 140
    await acceptor.stop()


async def test_a_drain_of_nobody_takes_no_time() -> None:
    sleeper = Sleeper()
    await make(sleeper).drain(60)
    assert sleeper.now == 0


@pytest.mark.parametrize("seconds", [0.0, 0.01])
async def test_a_drain_of_no_time_is_at_once(seconds: float) -> None:
    sleeper = Sleeper()
    acceptor = make(sleeper)
    sockets = [Leaving(acceptor, lambda: sleeper.now) for _ in range(20)]
    await acceptor.drain(seconds)
    assert all(socket.left == [(0.0, 1012)] for socket in sockets)
    await acceptor.stop()


async def test_a_drain_can_be_hurried() -> None:
    sleeper = Sleeper()
    acceptor = make(sleeper)
    sockets = [Leaving(acceptor, lambda: sleeper.now) for _ in range(50)]
    sleeper.after = lambda now: acceptor.hurry() if now >= 1 else None
    await acceptor.drain(60)
    assert all(socket.left for socket in sockets)
    assert sleeper.now <= 1.2
    await acceptor.stop()


async def test_the_order_of_a_drain_comes_from_the_randomness() -> None:
    async def times(seed: int) -> list[float]:
        sleeper = Sleeper()
        acceptor = make(sleeper, seed)
        sockets = [Leaving(acceptor, lambda: sleeper.now) for _ in range(30)]
        await acceptor.drain(5)
        await acceptor.stop()
        return sorted(socket.left[0][0] for socket in sockets)

    assert await times(1) == await times(1) != await times(2)


async def test_one_timer_looks_at_all_sockets() -> None:
    sleeper = Sleeper()
    acceptor = make(sleeper, limits=SocketLimits(watch_interval=0.01))
    sockets = [Leaving(acceptor, lambda: sleeper.now) for _ in range(3)]
    async with asyncio.timeout(10):
        while not all(len(socket.checked) >= 2 for socket in sockets):
            await asyncio.sleep(0.001)
    assert len({len(socket.checked) for socket in sockets}) == 1
    await acceptor.stop()


async def test_places_are_counted_per_address_and_given_back() -> None:
    acceptor = make(Sleeper(), limits=SocketLimits(max_sockets=3, max_sockets_per_address=2))
    handshake = parse_handshake(upgrade_request())
    acceptor.take_place("10.0.0.1")
    acceptor.take_place("10.0.0.1")
    with pytest.raises(Refusal) as refusal:
        acceptor.check_request(handshake, "10.0.0.1")
    assert refusal.value.refused.status == 429
    assert acceptor.check_request(handshake, "10.0.0.2").address == "10.0.0.2"
    acceptor.take_place("10.0.0.2")
    with pytest.raises(Refusal) as refusal:
        acceptor.check_request(handshake, "10.0.0.3")
    assert refusal.value.refused.status == 503
    acceptor.give_back_place("10.0.0.1")
    assert acceptor.check_request(handshake, "10.0.0.1").address == "10.0.0.1"
    assert acceptor.held == 2
