"""Passwords: hashed off the loop, bounded, and the same work whether or not there is an account."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from pwdlib.hashers.argon2 import Argon2Hasher

from auth.passwords import Passwords, PasswordsBusy

CHEAP = Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)


class Gated(Argon2Hasher):
    """A hasher that waits for the test, and counts."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.gate = threading.Event()
        self.gate.set()
        self.verified = 0
        self.hashed = 0

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.hashed += 1
        self.gate.wait(20)
        return super().hash(password, salt=salt)

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:
        self.verified += 1
        return super().verify(password, hash)


async def room_again(passwords: Passwords) -> None:
    """Return when a password may be hashed again."""
    async with asyncio.timeout(20):
        while passwords.full:
            await asyncio.sleep(0)


@pytest.fixture
def gated() -> Iterator[Gated]:
    hasher = Gated()
    yield hasher
    hasher.gate.set()


async def test_a_password_fits_its_hash_and_no_other() -> None:
    passwords = Passwords(hasher=CHEAP)
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$")
    right = await passwords.verify("correct horse", stored)
    assert right is not None
    assert right.new_hash is None
    assert await passwords.verify("correct horsf", stored) is None
    passwords.close()


async def test_the_same_characters_composed_otherwise_are_the_same_password() -> None:
    passwords = Passwords(hasher=CHEAP)
    assert await passwords.verify("cafe\u0301 au lait", await passwords.hash("caf\u00e9 au lait")) is not None
    passwords.close()


async def test_an_absent_account_costs_one_verification_and_never_fits(gated: Gated) -> None:
    passwords = Passwords(hasher=gated)
    hashed = gated.hashed
    assert await passwords.verify("nobody has this password", None) is None
    assert (gated.verified, gated.hashed - hashed) == (1, 0)
    passwords.close()


async def test_a_weaker_hash_is_replaced() -> None:
    stored = await Passwords(hasher=CHEAP).hash("correct horse")
    stronger = Passwords(hasher=Argon2Hasher(time_cost=2, memory_cost=16, parallelism=1))
    verified = await stronger.verify("correct horse", stored)
    assert verified is not None
    assert verified.new_hash is not None
    assert await stronger.verify("correct horse", verified.new_hash) is not None
    stronger.close()


async def test_R13_what_waits_is_bounded_and_places_come_back(gated: Gated) -> None:
    passwords = Passwords(threads=1, max_waiting=1, hasher=gated)
    gated.gate.clear()
    two = [asyncio.create_task(passwords.hash(f"password {n}")) for n in range(2)]
    await asyncio.sleep(0)
    assert passwords.full
    with pytest.raises(PasswordsBusy):
        await passwords.hash("one too many")
    gated.gate.set()
    await asyncio.gather(*two)
    await room_again(passwords)
    assert await passwords.hash("again")
    passwords.close()


async def test_R13_a_caller_gets_an_answer_in_time_and_the_place_stays_taken(gated: Gated) -> None:
    passwords = Passwords(threads=1, max_waiting=0, time_limit=0.02, hasher=gated)
    gated.gate.clear()
    with pytest.raises(PasswordsBusy, match="too long"):
        await passwords.hash("slow")
    assert passwords.full
    gated.gate.set()
    await room_again(passwords)
    passwords.close()
