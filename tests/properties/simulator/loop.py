"""An event loop whose time is virtual: instead of waiting it moves the clock to the next timer."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

Result = TypeVar("Result")


class Stuck(Exception):
    """Nothing is left to happen, and the simulation has not ended."""


class _Jump(selectors.SelectSelector):
    """Selects nothing, ever; asked to wait, it lets that time pass."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("no timer is set and no callback is due")
        if timeout > 0:
            self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that runs as fast as it can and whose `time()` is the simulation's. One thread, no I/O, no threads."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine to its end on a fresh virtual loop; time begins at 0."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait([*tasks, loop.create_task(asyncio.sleep(0))], timeout=1))
        loop.close()


class InstanceLoop:
    """What the core uses of a loop, for one instance: when that dies, its timers and tasks die with it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.is_dead = False

    def time(self) -> float:
        return self._loop.time()

    def call_soon(
        self, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self._loop.call_soon(self._call, callback, arguments, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, self._call, callback, arguments, context=context)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        task = self._loop.create_task(coro, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        if self.is_dead:
            task.cancel()
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def _call(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if not self.is_dead:
            callback(*arguments)

    def die(self) -> None:
        """Let nothing more happen: as if the process had been killed between two steps."""
        self.is_dead = True
        for task in list(self._tasks):
            task.cancel()
