"""An instance that starts before its database waits for it, and not for ever."""

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from constructure_sync.app import enter_when_up
from constructure_sync.services import Services
from storage.contracts import StorageError, StorageUnavailable
from tests.properties.simulator.loop import VirtualLoop, run_virtually


class Starting:
    """Services whose database answers from a moment on. seconds: None: never."""

    def __init__(self, loop: VirtualLoop, seconds: float, fault: StorageError) -> None:
        self.tries: list[float] = []
        self.is_closed = False
        self._loop = loop
        self._seconds = seconds
        self._fault = fault

    def open(self) -> AbstractAsyncContextManager[Services]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Services]:
        self.tries.append(self._loop.time())
        if self._loop.time() < self._seconds:
            raise self._fault
        try:
            yield cast(Services, self)
        finally:
            self.is_closed = True


def start(seconds: float, wait: float, fault: StorageError) -> Starting:
    async def main(loop: VirtualLoop) -> Starting:
        starting = Starting(loop, seconds, fault)
        async with AsyncExitStack() as stack:
            try:
                await enter_when_up(stack, starting.open, wait, random.Random(1))
            except StorageError:
                assert loop.time() <= wait + 0.1
                return starting
        return starting

    return run_virtually(main)


def test_a_database_that_is_just_starting_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    starting = start(10.0, 30.0, StorageUnavailable("starting up"))
    assert starting.is_closed
    assert 5 < len(starting.tries) < 20
    assert starting.tries[-1] < 13.0
    assert capsys.readouterr().out.count("waiting_for_database") == 1


def test_the_wait_has_an_end() -> None:
    starting = start(60.0, 30.0, StorageUnavailable("starting up"))
    assert not starting.is_closed
    assert starting.tries[-1] >= 30.0


@pytest.mark.parametrize(("wait", "fault"), [(0.0, StorageUnavailable("away")), (30.0, StorageError("bad URL"))])
def test_nothing_is_waited_for_that_is_not_wanted_or_will_not_come(wait: float, fault: StorageError) -> None:
    assert start(60.0, wait, fault).tries == [0.0]
