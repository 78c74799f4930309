"""Payloads that are known to add nothing (interleavings 12).

After a restart a crowd of clients sends the same SyncStep2 each: the whole delete set. What adds nothing now never will, so it is
read once and then recognised by its digest.
"""

import hashlib
from collections import OrderedDict

_REMEMBERED = 256
_FROM_BYTES = 64  # below it, reading an update costs less than its digest


class Payloads:
    """The latest payloads of one room that added nothing, as digests."""

    __slots__ = ("_digests",)

    def __init__(self) -> None:
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, payload: bytes) -> bool:
        return bool(self._digests) and len(payload) >= _FROM_BYTES and _digest(payload) in self._digests

    def add(self, payload: bytes) -> None:
        """Remember a payload; the oldest is forgotten when there are too many."""
        if len(payload) >= _FROM_BYTES:
            self._digests[_digest(payload)] = None
            if len(self._digests) > _REMEMBERED:
                self._digests.popitem(last=False)


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
