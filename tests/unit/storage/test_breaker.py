"""The circuit breaker, by a clock that is moved by hand."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from storage.breaker import BreakerState, CircuitBreaker
from storage.contracts import StorageUnavailable
from storage.database import DatabaseAway, Rejected


class Bench:
    """A breaker, its clock, what it told, and how often it let a call through."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[BreakerState] = []
        self.attempts = 0
        self.breaker = CircuitBreaker(lambda: self.now, self.told.append, failures=3, probe_seconds=0.5)

    def state(self) -> BreakerState:
        return self.breaker.state

    def attempt(self, error: BaseException | None = None) -> Callable[[], Awaitable[int]]:
        async def run() -> int:
            self.attempts += 1
            if error is not None:
                raise error
            return self.attempts

        return run

    async def fail(self, times: int, error: Exception) -> None:
        for _ in range(times):
            with pytest.raises(type(error)):
                await self.breaker.call(self.attempt(error))


AWAY = DatabaseAway("away")


async def test_calls_go_through_while_the_database_answers() -> None:
    bench = Bench()
    assert [await bench.breaker.call(bench.attempt()) for _ in range(3)] == [1, 2, 3]
    assert bench.told == []


async def test_three_failures_in_a_row_open_it_and_calls_fail_at_once() -> None:
    bench = Bench()
    await bench.fail(2, AWAY)
    await bench.breaker.call(bench.attempt())
    await bench.fail(2, AWAY)
    assert bench.state() is BreakerState.CLOSED
    await bench.fail(1, AWAY)
    assert bench.state() is BreakerState.OPEN
    attempts = bench.attempts
    with pytest.raises(StorageUnavailable, match="asked again shortly"):
        await bench.breaker.call(bench.attempt())
    assert bench.attempts == attempts


@pytest.mark.parametrize("answer", [Rejected("taken"), StorageUnavailable("locked"), ValueError("ours")])
async def test_what_the_database_answers_does_not_open_it(answer: Exception) -> None:
    bench = Bench()
    await bench.fail(2, AWAY)
    await bench.fail(1, answer)
    await bench.fail(2, AWAY)
    assert bench.state() is BreakerState.CLOSED


async def test_after_a_while_one_call_probes_and_closes_it() -> None:
    bench = Bench()
    await bench.fail(3, AWAY)
    bench.now += 0.5
    assert await bench.breaker.call(bench.attempt()) == 4
    assert await bench.breaker.call(bench.attempt()) == 5
    assert bench.told == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


async def test_a_probe_that_fails_opens_it_for_another_while() -> None:
    bench = Bench()
    await bench.fail(3, AWAY)
    bench.now += 0.5
    await bench.fail(1, AWAY)
    bench.now += 0.4
    with pytest.raises(StorageUnavailable, match="asked again shortly"):
        await bench.breaker.call(bench.attempt())
    bench.now += 0.1
    assert await bench.breaker.call(bench.attempt()) == 5


async def test_a_probe_that_is_answered_with_no_closes_it() -> None:
    bench = Bench()
    await bench.fail(3, AWAY)
    bench.now += 0.5
    await bench.fail(1, StorageUnavailable("locked"))
    assert bench.state() is BreakerState.CLOSED


async def test_only_one_call_probes_at_a_time() -> None:
    bench = Bench()
    await bench.fail(3, AWAY)
    bench.now += 0.5
    gate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    probing = asyncio.create_task(bench.breaker.call(lambda: gate))
    await asyncio.sleep(0)
    assert bench.state() is BreakerState.HALF_OPEN
    with pytest.raises(StorageUnavailable, match="asked again shortly"):
        await bench.breaker.call(bench.attempt())
    gate.set_result(7)
    assert await probing == 7
    assert bench.state() is BreakerState.CLOSED


async def test_a_probe_that_is_cancelled_leaves_room_for_the_next() -> None:
    bench = Bench()
    await bench.fail(3, AWAY)
    bench.now += 0.5
    gate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    probing = asyncio.create_task(bench.breaker.call(lambda: gate))
    await asyncio.sleep(0)
    probing.cancel()
    await asyncio.wait([probing])
    assert bench.state() is BreakerState.OPEN
    assert await bench.breaker.call(bench.attempt()) == 4


async def test_late_answers_to_earlier_calls_do_not_close_it() -> None:
    bench = Bench()
    gate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    early = asyncio.create_task(bench.breaker.call(lambda: gate))
    await asyncio.sleep(0)
    await bench.fail(3, AWAY)
    gate.set_result(1)
    await early
    assert bench.state() is BreakerState.OPEN
