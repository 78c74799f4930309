"""Seeded mutations of bytes, of the kinds that get furthest into a reader of variable-length numbers."""

import random
from collections.abc import Sequence
from typing import Final

_TELLING_BYTES: Final = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    10,
    0x20,
    0x21,
    0x27,
    0x28,
    0x40,
    0x7F,
    0x80,
    0x81,
    0x84,
    0x88,
    0xC4,
    0xFF,
)
_TELLING_NUMBERS: Final = (
    b"\x00",
    b"\x7f",
    b"\x80\x01",
    b"\xff\x7f",
    b"\x80\x80\x04",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x10",
    b"\xff\xff\xff\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
)


def mutate(data: bytes, others: Sequence[bytes], choices: random.Random) -> bytes:
    """Return the bytes with one to three changes. others: bytes of the same kind, to take pieces from."""
    made = bytearray(data)
    for _ in range(choices.choice((1, 1, 1, 2, 3))):
        _change(made, others, choices)
    return bytes(made)


def _change(made: bytearray, others: Sequence[bytes], choices: random.Random) -> None:
    place = choices.randrange(len(made) + 1)
    at = min(place, max(len(made) - 1, 0))
    kind = choices.randrange(10)
    if kind < 3 and made:
        made[at] = (made[at] + choices.choice((-2, -1, 1, 2))) & 0xFF
    elif kind == 3 and made:
        made[at] ^= 1 << choices.randrange(8)
    elif kind == 4 and made:
        made[at] = choices.choice(_TELLING_BYTES)
    elif kind == 5:
        made[at : at + choices.randint(0, 2)] = choices.choice(_TELLING_NUMBERS)
    elif kind == 6:
        del made[at : at + choices.randint(1, 6)]
    elif kind == 7:
        made[place:place] = made[at : at + choices.randint(1, 12)]
    elif kind == 8:
        other = choices.choice(others)
        start = choices.randrange(len(other) + 1)
        made[place : place + choices.randint(0, 8)] = other[start : start + choices.randint(1, 24)]
    elif choices.random() < 0.2:
        del made[place:]
    else:
        made[place:place] = choices.randbytes(choices.randint(1, 4))
