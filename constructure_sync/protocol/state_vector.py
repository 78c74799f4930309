"""Yjs state vectors: per client, the first clock that is not known.

Their bytes are not canonical (clients write them in any order): compare them decoded.
"""

from collections.abc import Mapping
from functools import lru_cache

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.id_ranges import MAX_CLOCK
from constructure_sync.protocol.lib0 import Reader, write_var_uint

# The same ids over and over, five bytes each: crowds that come back are asked with a vector of its own each.
_client = lru_cache(maxsize=65_536)(write_var_uint)


def decode_state_vector(encoded: bytes, max_clients: int = 100_000) -> dict[int, int]:
    """Give client → first unknown clock.

    max_clients: how many clients are taken (more: ProtocolViolation 4413). Raises ProtocolViolation for a client named
    twice, a clock beyond 32 bits, a count that the bytes cannot hold, and trailing bytes.
    """
    reader = Reader(encoded)
    count = reader.read_var_uint()
    if count * 2 > reader.bytes_left:
        raise ProtocolViolation("state vector declares more clients than it holds")
    if count > max_clients:
        raise ProtocolViolation("too many clients in a state vector", 4413)
    clocks: dict[int, int] = {}
    for _ in range(count):
        client = reader.read_var_uint()
        clock = reader.read_var_uint()
        if client in clocks:
            raise ProtocolViolation("state vector names a client twice")
        if clock > MAX_CLOCK:
            raise ProtocolViolation("clock is beyond 32 bits")
        clocks[client] = clock
    reader.expect_end()
    return clocks


def encode_state_vector(clocks: Mapping[int, int]) -> bytes:
    """Give the bytes of a state vector, clients from the highest id down as Yjs writes them."""
    parts = [write_var_uint(len(clocks))]
    for client in sorted(clocks, reverse=True):
        parts.append(_client(client))
        parts.append(write_var_uint(clocks[client]))
    return b"".join(parts)
