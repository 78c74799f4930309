"""Makes V1 updates by hand, well-formed or not, for the tests of the protocol."""

from constructure_sync.protocol.lib0 import var_string, write_var_uint

Id = tuple[int, int]


def uints(*numbers: int) -> bytes:
    return b"".join(map(write_var_uint, numbers))


def item(
    kind: int,
    content: bytes,
    origin: Id | None = None,
    right: Id | None = None,
    parent: str | Id = "t",
    key: str | None = None,
) -> bytes:
    info = kind | 0x80 * (origin is not None) | 0x40 * (right is not None) | 0x20 * (key is not None)
    head = bytes((info,))
    if origin is not None:
        head += uints(*origin)
    if right is not None:
        head += uints(*right)
    if origin is None and right is None:
        head += b"\x01" + var_string(parent) if isinstance(parent, str) else b"\x00" + uints(*parent)
        if key is not None:
            head += var_string(key)
    return head + content


def text(content: str, origin: Id | None = None, right: Id | None = None, parent: str | Id = "t") -> bytes:
    return item(4, var_string(content), origin, right, parent)


def gc(length: int) -> bytes:
    return b"\x00" + uints(length)


def skip(length: int) -> bytes:
    return b"\x0a" + uints(length)


def section(client: int, clock: int, *structs: bytes) -> bytes:
    return uints(len(structs), client, clock) + b"".join(structs)


def delete_set(*ranges: tuple[int, int, int]) -> bytes:
    """Ranges as (client, start, end), those of one client next to one another."""
    clients = list(dict.fromkeys(client for client, _, _ in ranges))
    encoded = uints(len(clients))
    for client in clients:
        own = [(start, end - start) for owner, start, end in ranges if owner == client]
        encoded += uints(client, len(own)) + b"".join(uints(*pair) for pair in own)
    return encoded


def update(*sections: bytes, deletes: tuple[tuple[int, int, int], ...] = ()) -> bytes:
    return uints(len(sections)) + b"".join(sections) + delete_set(*deletes)
