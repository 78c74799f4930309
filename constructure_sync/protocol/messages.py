"""The messages of y-protocols as a plain Yjs client sends and takes them: bytes ↔ meaning.

One frame holds exactly one message. Format: `y-protocols` `sync.js`, `awareness.js`, `auth.js`.
"""

from dataclasses import dataclass
from typing import Final

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.lib0 import Reader, var_bytes, var_string, write_var_uint

KEEPALIVE: Final = b"\x01\x01\x00"
"""An awareness message with no entries: it changes nothing and tells a y-websocket client that the server lives."""

AWARENESS: Final = b"\x01"
"""What an awareness message begins with."""

_SYNC, _AWARENESS, _QUERY_AWARENESS = 0, 1, 3
_STEP1, _STEP2, _UPDATE = 0, 1, 2
_RECEIPT = b"\x78"


@dataclass(slots=True, eq=True, unsafe_hash=True)
class SyncStep1:
    """A client's state vector, asking for what it lacks. state_vector: undecoded."""

    state_vector: bytes


@dataclass(slots=True, eq=True, unsafe_hash=True)
class SyncStep2:
    """The answer to a SyncStep1. update: an undecoded V1 update, possibly the empty one."""

    update: bytes


@dataclass(slots=True, eq=True, unsafe_hash=True)
class Update:
    """A live edit. update: an undecoded V1 update."""

    update: bytes


@dataclass(slots=True, eq=True, unsafe_hash=True)
class AwarenessUpdate:
    """Presence. payload: undecoded awareness entries."""

    payload: bytes


@dataclass(slots=True, eq=True, unsafe_hash=True)
class QueryAwareness:
    """The wish to be told everyone's presence."""


Message = SyncStep1 | SyncStep2 | Update | AwarenessUpdate | QueryAwareness


def short_update(frame: bytes) -> bytes | None:
    """The update of a short live edit, as most messages of clients are; None: `decode_message` tells what it is."""
    if len(frame) > 2 and frame[1] == _UPDATE and frame[0] == _SYNC and frame[2] == len(frame) - 3 < 128:
        return frame[3:]
    return None


def decode_message(frame: bytes) -> Message:
    """The one message of a binary WebSocket message from a client.

    Raises ProtocolViolation for anything else: unknown types, type 2 (auth goes from server to client only),
    cut or trailing bytes.
    """
    reader = Reader(frame)
    kind = reader.read_var_uint()
    message: Message
    if kind == _SYNC:
        message = _read_sync(reader)
    elif kind == _AWARENESS:
        message = AwarenessUpdate(reader.read_var_bytes())
    elif kind == _QUERY_AWARENESS:
        message = QueryAwareness()
    else:
        raise ProtocolViolation("a message of a type that clients do not send")
    if reader.has_more:
        raise ProtocolViolation("bytes after the message")
    return message


def _read_sync(reader: Reader) -> Message:
    step = reader.read_var_uint()
    if step == _STEP1:
        return SyncStep1(reader.read_var_bytes())
    if step == _STEP2:
        return SyncStep2(reader.read_var_bytes())
    if step == _UPDATE:
        return Update(reader.read_var_bytes())
    raise ProtocolViolation("a sync message of an unknown type")


def sync_step1(state_vector: bytes) -> bytes:
    """The message that asks a client for what it has beyond this encoded state vector."""
    return b"\x00\x00" + var_bytes(state_vector)


def sync_step2(update: bytes) -> bytes:
    """The message that answers a SyncStep1; a y-websocket client counts as synced after its first one."""
    return b"\x00\x01" + var_bytes(update)


def update_message(update: bytes) -> bytes:
    """The message that carries a live V1 update."""
    return b"\x00\x02" + var_bytes(update)


def awareness_message(payload: bytes) -> bytes:
    """The message that carries encoded awareness entries."""
    return AWARENESS + var_bytes(payload)


def receipt(n: int, seq: int) -> bytes:
    """The message that says that a connection's first `n` write messages are saved, the log standing at `seq`.

    Sent only to clients that asked for it: type 120 is private to this server.
    """
    return _RECEIPT + write_var_uint(n) + write_var_uint(seq)


def permission_denied(reason: str) -> bytes:
    """The auth message (type 2, permission denied) that tells a client why; stock clients print it."""
    return b"\x02\x00" + var_string(reason)
