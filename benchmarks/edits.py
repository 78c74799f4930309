"""The edits that the load consists of, written as Yjs updates without a document.

An author types a piece of text and sets a property, in turn. Each edit holds a mark, so that whoever receives its bytes knows
which edit it is.
"""

import re
import secrets
from typing import Final

TEXT: Final = "text"
PROPERTIES: Final = "properties"
PREFIX: Final = b"~" + secrets.token_hex(3).encode()  # of this run: a document may hold marks of earlier ones
MARK: Final = re.compile(PREFIX + rb"(\d{8})")
MARK_BYTES: Final = len(PREFIX) + 8
_STRING, _ANY = 4, 8  # kinds of content
_ORIGIN, _KEY = 0x80, 0x20  # bits of an item's info byte
_ANY_STRING: Final = 119


def var_uint(number: int) -> bytes:
    """Encode as lib0's varUint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def var_bytes(data: bytes) -> bytes:
    """Encode as lib0's varBytes."""
    return var_uint(len(data)) + data


def mark(number: int) -> bytes:
    """Return the mark of an edit."""
    return PREFIX + b"%08d" % number


class Author:
    """Writes under one client id. typed: the marks of its typed edits; last_property: the mark of the newest set property."""

    __slots__ = ("_client", "_clock", "_property_at", "_typed_to", "_types_next", "client_id", "last_property", "typed")

    def __init__(self, client_id: int) -> None:
        self.client_id = client_id
        self.typed: list[bytes] = []
        self.last_property: bytes | None = None
        self._client = var_uint(client_id)
        self._clock = 0
        self._typed_to: int | None = None  # clock of the last typed character
        self._property_at: int | None = None
        self._types_next = True

    def edit(self, number: int) -> bytes:
        """Return the update of the next edit."""
        marked = mark(number)
        is_typed, self._types_next = self._types_next, not self._types_next
        return self._type(marked) if is_typed else self._set(marked)

    def _type(self, marked: bytes) -> bytes:
        head = b"\x01\x01" + self._client + var_uint(self._clock)
        if self._typed_to is None:
            place = bytes((_STRING, 1)) + var_bytes(TEXT.encode())
        else:
            place = bytes((_STRING | _ORIGIN,)) + self._client + var_uint(self._typed_to)
        self._clock += len(marked)
        self._typed_to = self._clock - 1
        self.typed.append(marked)
        return head + place + var_bytes(marked) + b"\x00"

    def _set(self, marked: bytes) -> bytes:
        head = b"\x01\x01" + self._client + var_uint(self._clock)
        if self._property_at is None:
            key = str(self.client_id).encode()
            place = bytes((_ANY | _KEY, 1)) + var_bytes(PROPERTIES.encode()) + var_bytes(key)
            deletes = b"\x00"
        else:
            replaced = var_uint(self._property_at)
            place = bytes((_ANY | _KEY | _ORIGIN,)) + self._client + replaced
            deletes = b"\x01" + self._client + b"\x01" + replaced + b"\x01"
        self._property_at = self._clock
        self._clock += 1
        self.last_property = marked
        return head + place + b"\x01" + bytes((_ANY_STRING,)) + var_bytes(marked) + deletes
