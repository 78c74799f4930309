"""Passwords: argon2id in a few threads of their own, never more waiting than a bound, never longer than a limit."""

import asyncio
import contextlib
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers import HasherProtocol
from pwdlib.hashers.argon2 import Argon2Hasher

T = TypeVar("T")


class PasswordsBusy(Exception):
    """Too many passwords are being hashed; nothing was decided, try again later."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The password is right. new_hash: to be stored in place of the old one, which was made with weaker settings."""

    new_hash: str | None


class Passwords:
    """Hashes and verifies passwords without holding up the event loop.

    threads: how many at once. max_waiting: how many more may wait. time_limit: seconds until PasswordsBusy.
    """

    def __init__(
        self,
        *,
        threads: int = 2,
        max_waiting: int = 64,
        time_limit: float = 10.0,
        hasher: HasherProtocol | None = None,
    ) -> None:
        self._hash = PasswordHash((hasher or Argon2Hasher(),))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._bound = threads + max_waiting
        self._taken = 0
        self._time_limit = time_limit
        # Verified against when there is no account, so that its absence takes as long as a wrong password.
        self._nobody = self._hash.hash("nobody has this password")

    @property
    def full(self) -> bool:
        """True when the next password would be refused with PasswordsBusy."""
        return self._taken >= self._bound

    async def hash(self, password: str) -> str:
        """The hash to store. Raises PasswordsBusy."""
        text = _normal(password)
        return await self._run(lambda: self._hash.hash(text))

    async def verify(self, password: str, stored: str | None) -> Verified | None:
        """Whether `password` is the one behind `stored`. None: it is not, or nothing is stored. Raises PasswordsBusy."""
        text = _normal(password)
        right, new_hash = await self._run(lambda: self._hash.verify_and_update(text, stored or self._nobody))
        return Verified(new_hash) if right and stored is not None else None

    def close(self) -> None:
        """Drop what waits; what is being hashed ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self.full:
            raise PasswordsBusy("too many sign-ins at once")
        self._taken += 1
        future = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        # Freed when the thread is done with it, not when its caller has gone.
        future.add_done_callback(lambda _: self._free_on(loop))
        try:
            async with asyncio.timeout(self._time_limit):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise PasswordsBusy("hashing took too long") from error

    def _free_on(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop may have been closed before the thread was done: then nobody waits for the place any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._free)

    def _free(self) -> None:
        self._taken -= 1


def _normal(password: str) -> str:
    """The form that is hashed: keyboards differ in how they compose the same characters."""
    return unicodedata.normalize("NFKC", password)
