"""Whether everybody ended with what was written: run after each load, before its figures count."""

from collections import Counter
from collections.abc import Sequence

from pycrdt import Doc, Map, Text

from benchmarks.edits import MARK, PROPERTIES, TEXT, mark
from benchmarks.generator import Client, Generator
from benchmarks.wire import BINARY, STEP1, Frames, LoadFailed

Content = tuple[Counter[bytes], dict[str, str]]


def check(generator: Generator, addresses: Sequence[str]) -> None:
    """Check that every client got every edit of the others in its room and none of another room, and that the first and the last
    client of each room and a fresh one hold what was written. addresses: of a fresh client, by room.

    Of a client that kept nothing the number of edits is compared. LoadFailed: something is missing or differs.
    """
    written: dict[int, set[int]] = {}
    own: dict[int, set[int]] = {}
    for number, author in enumerate(generator.sent_by):
        written.setdefault(author.room, set()).add(number)
        own.setdefault(author.fd, set()).add(number)
    rooms: dict[int, list[Client]] = {}
    for client in generator.clients:
        rooms.setdefault(client.room, []).append(client)
        expected = written.get(client.room, set())
        if not client.keeps:
            _check_count(client, len(expected) - (0 if generator.echoes else len(own.get(client.fd, ()))))
            continue
        got = {int(number) for number in MARK.findall(b"".join(client.received))}
        if got - expected or expected - got - own.get(client.fd, set()):
            raise LoadFailed(f"a client of room {client.room} lacks edits, or has those of another room")
    for room, clients in rooms.items():
        fresh = Client(addresses[room], room, 1, is_observer=False, wants_receipts=False)
        try:
            contents = [content(each) for each in (clients[0], clients[-1], fresh)]
        finally:
            fresh.close()
        if any(each != expectation(clients) for each in contents):
            raise LoadFailed(f"the clients of room {room} do not hold what was written")


def _check_count(client: Client, expected: int) -> None:
    if client.arrived != expected:
        raise LoadFailed(f"a client of room {client.room} got {client.arrived} edits instead of {expected}")


def content(client: Client) -> Content:
    """Return what a client holds: how often each typed mark is there, and the properties."""
    text, properties = Text(), Map[str]()
    document: Doc[Text | Map[str]] = Doc({TEXT: text, PROPERTIES: properties})
    with document.transaction():
        for update in updates_of(client):
            document.apply_update(update)
    typed = Counter(mark(int(number)) for number in MARK.findall(str(text).encode()))
    return typed, {key: value for key, value in properties.items() if MARK.match(value.encode())}


def updates_of(client: Client) -> list[bytes]:
    """Return all updates that a client has made and received."""
    messages = (payload for opcode, payload in Frames().feed(b"".join(client.received)) if opcode == BINARY)
    synced = [sync for sync in map(client.sync_payload, messages) if sync is not None]
    return [*client.made, *(payload for step, payload in synced if step != STEP1)]


def expectation(clients: Sequence[Client]) -> Content:
    """Return what everybody has to hold."""
    typed = Counter(each for client in clients for each in client.author.typed)
    properties = {
        str(client.author.client_id): client.author.last_property.decode()
        for client in clients
        if client.author.last_property is not None
    }
    return typed, properties
