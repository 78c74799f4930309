"""What stands against serving, asked by probes as often as they like and of the database about once a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from constructure_sync.observability import get_logger
from storage.contracts import StorageError, StorageUnavailable

_log = get_logger()

AWAY: Final = "the database is away"


class DatabaseProbe:
    """Whether the database answers and has the schema of this version.

    check: returns when it answers, and raises StorageUnavailable. check_schema: raises StorageError when the schema is another.
    lasting, schema_lasting: seconds for which an answer of either holds. timeout: seconds after which no answer counts as none.
    """

    def __init__(
        self,
        check: Callable[[], Awaitable[None]],
        check_schema: Callable[[], Awaitable[None]],
        *,
        lasting: float = 1.0,
        schema_lasting: float = 30.0,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check
        self._check_schema = check_schema
        self._lasting = lasting
        self._schema_lasting = schema_lasting
        self._timeout = timeout
        self._clock = clock
        self._reasons: tuple[str, ...] = ()
        self._due = self._schema_due = clock()
        self._look: asyncio.Task[None] | None = None

    async def reasons(self) -> tuple[str, ...]:
        """Return what stands against the database, in English; all who ask at once share one look at it."""
        if self._look is None and self._clock() >= self._due:
            self._look = asyncio.create_task(self._ask(), name="look at the database")
        if self._look is not None:
            await asyncio.shield(self._look)
        return self._reasons

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._check()
                if self._clock() >= self._schema_due:
                    await self._check_schema()
                    self._schema_due = self._clock() + self._schema_lasting
            self._reasons = ()
        except (StorageUnavailable, TimeoutError):
            self._reasons = (AWAY,)
        except StorageError as error:
            self._reasons = (str(error),)
        except Exception:
            _log.exception("database_not_judged")
            self._reasons = ("the database cannot be judged; the log says why",)
        finally:
            self._due = self._clock() + self._lasting
            self._look = None
