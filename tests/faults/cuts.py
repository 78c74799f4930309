"""Cutting work short at any step: around each call of a database or a worker, and inside each transaction.

A cut inside a transaction rolls it back, as a database does when it comes back from a crash.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from sqlalchemy.engine import Connection

from storage.database import SqlDatabase

T = TypeVar("T")


class Cut(Exception):
    """The process ends here."""


class Cutter:
    """Counts steps. left: at which the cut comes, from 1; 0: it never comes.

    at_cut: what is done at that moment, inside the transaction.
    """

    def __init__(self, left: int, at_cut: Callable[[], None] = lambda: None) -> None:
        self._left = left
        self._at_cut = at_cut
        self.steps = 0

    def step(self, name: str) -> None:
        """Pass a step. Raises Cut."""
        self._left -= 1
        self.steps += 1
        if self._left == 0:
            self._at_cut()
            raise Cut(name)


class CutDatabase:
    """A `SqlDatabase` each of whose steps may be the last."""

    def __init__(self, database: SqlDatabase, cutter: Cutter) -> None:
        self._database = database
        self._cutter = cutter

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See SqlDatabase."""
        name = _name(work)
        self._cutter.step(f"before {name}")
        result = await self._database.write(lambda connection: self._in_steps(name, work, connection))
        self._cutter.step(f"after the commit of {name}")
        return result

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See SqlDatabase."""
        name = _name(work)
        self._cutter.step(f"before {name}")
        result = await self._database.read(work)
        self._cutter.step(f"after {name}")
        return result

    async def close(self) -> None:
        """See SqlDatabase."""
        await self._database.close()

    def _in_steps(self, name: str, work: Callable[[Connection], T], connection: Connection) -> T:
        result = work(cast(Connection, _CutConnection(connection, name, self._cutter)))
        self._cutter.step(f"before the commit of {name}")
        return result


class _CutConnection:
    """A connection inside a transaction: a step before and after each statement."""

    def __init__(self, connection: Connection, name: str, cutter: Cutter) -> None:
        self._connection = connection
        self._name = name
        self._cutter = cutter
        self._statements = 0

    def execute(self, *arguments: Any, **options: Any) -> Any:
        return self._step(self._connection.execute, *arguments, **options)

    def scalar(self, *arguments: Any, **options: Any) -> Any:
        return self._step(self._connection.scalar, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _step(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self._statements += 1
        self._cutter.step(f"before statement {self._statements} of {self._name}")
        result = call(*arguments, **options)
        self._cutter.step(f"after statement {self._statements} of {self._name}")
        return result


class CutWorkers:
    """Workers that compute in place; a step before and one after."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter

    async def run(self, function: Callable[..., T], /, *arguments: object, timeout: float) -> T:
        """See `replica.pool.Workers`."""
        self._cutter.step("before computing")
        result = function(*arguments)
        self._cutter.step("after computing")
        return result


def _name(work: Callable[..., object]) -> str:
    """The store's function behind a unit of work."""
    named = getattr(work, "func", work)
    return str(getattr(named, "__name__", "work")).strip("_").replace("_", " ")
