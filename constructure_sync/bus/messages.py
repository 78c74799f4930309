"""Bus messages as bytes, and back. Pure: no clock, no I/O; whatever was not written by `encode` is a ProtocolViolation.

A message is: the format's version (1 byte); varUint the sender's instance id; varUint when it was sent, in microseconds of the
sender's own clock, for itself alone; its kind (1 byte); its body. Numbers are lib0 varUints, ids 16 bytes, commit ids 8 bytes
with the high byte first. Instances of neighbouring releases share a bus during an update: a change of the format that they would
misread raises the version, and is then heard by nobody who does not know it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

from constructure_sync.bus.contracts import (
    ControlMessage,
    DocumentMessage,
    InstanceId,
    Invalidated,
    PresenceAsked,
    PresenceChanged,
    PresenceEntry,
    RightsChanged,
    RollCalled,
    Saved,
)
from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.awareness import GONE, AwarenessEntry, parse_json
from constructure_sync.protocol.lib0 import Reader, var_bytes, var_string, write_var_uint
from schemas.ids import CommitId, CourseId, Seq, UserId

VERSION = 1
MAX_CONTENT_BYTES = 256 * 1024
"""Of updates or presence in one message: a Redis server ends subscribers that are too many bytes behind."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_KIND_BYTES = 64

_ID_BYTES = 16
_COMMIT_BYTES = 8
_MAX_COMMIT = 2**63 - 1


class _Kind(IntEnum):
    SAVED = 1
    PRESENCE_CHANGED = 2
    PRESENCE_ASKED = 3
    ROLL_CALLED = 4
    LOST = 5
    RIGHTS_CHANGED = 6
    INVALIDATED = 7


@dataclass(frozen=True, slots=True)
class Lost:
    """The sender had messages for this channel that it could not send."""


Message = DocumentMessage | ControlMessage | Lost


@dataclass(frozen=True, slots=True)
class Letter:
    """A message with its sender. sent_at: microseconds of the sender's clock. message: None when the reader has sent it itself."""

    sender: InstanceId
    sent_at: int
    message: Message | None


def sendable(message: DocumentMessage) -> Iterator[DocumentMessage]:
    """Give the message as it may travel: updates too large for the bus left to the log, presence of many people in parts."""
    if isinstance(message, Saved):
        if message.updates is not None and sum([len(update) for update in message.updates]) > MAX_CONTENT_BYTES:
            message = Saved(message.first, message.last, message.commit, message.previous, None)
        yield message
    elif isinstance(message, PresenceChanged):
        yield from _parts(message.entries)
    else:
        yield message


def _parts(entries: Sequence[PresenceEntry]) -> Iterator[PresenceChanged]:
    part, size = list[PresenceEntry](), 0
    for entry in entries:
        if part and size + len(entry.entry.state) > MAX_CONTENT_BYTES:
            yield PresenceChanged(part)
            part, size = [], 0
        part.append(entry)
        size += len(entry.entry.state)
    if part:
        yield PresenceChanged(part)


def encode(sender: InstanceId, sent_at: int, message: Message) -> bytes:
    """Return the bytes of a letter."""
    return bytes((VERSION,)) + write_var_uint(sender) + write_var_uint(sent_at) + _encode_message(message)


def _encode_message(message: Message) -> bytes:
    match message:
        case Saved():
            return bytes((_Kind.SAVED,)) + _encode_saved(message)
        case PresenceChanged(entries):
            body = b"".join([_encode_entry(entry) for entry in entries])
            return bytes((_Kind.PRESENCE_CHANGED,)) + write_var_uint(len(entries)) + body
        case PresenceAsked():
            return bytes((_Kind.PRESENCE_ASKED,))
        case RollCalled():
            return bytes((_Kind.ROLL_CALLED,))
        case Lost():
            return bytes((_Kind.LOST,))
        case RightsChanged(of):
            return bytes((_Kind.RIGHTS_CHANGED,)) + of.bytes
        case Invalidated(kind, id):
            return bytes((_Kind.INVALIDATED,)) + var_string(kind) + id.bytes


def _encode_saved(saved: Saved) -> bytes:
    previous = b"\x00" if saved.previous is None else b"\x01" + saved.previous.to_bytes(_COMMIT_BYTES)
    updates = b"\x00" if saved.updates is None else b"\x01" + b"".join([var_bytes(update) for update in saved.updates])
    places = write_var_uint(saved.first) + write_var_uint(saved.last)
    return places + saved.commit.to_bytes(_COMMIT_BYTES) + previous + updates


def _encode_entry(entry: PresenceEntry) -> bytes:
    said = entry.entry
    whose = write_var_uint(entry.connection) + entry.user_id.bytes
    return whose + write_var_uint(said.client_id) + write_var_uint(said.clock) + var_bytes(said.state)


def decode(data: bytes, reader_id: InstanceId | None = None) -> Letter:
    """Return the letter that these bytes are. Raises ProtocolViolation.

    reader_id: who reads; the reader's own letters come back with no message, unread.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolViolation("a bus message is too large")
    reader = Reader(data)
    if reader.read_byte() != VERSION:
        raise ProtocolViolation("a bus message is of another version")
    sender, sent_at = reader.read_var_uint(), reader.read_var_uint()
    if sender == reader_id:
        return Letter(sender, sent_at, None)
    letter = Letter(sender, sent_at, _read_message(reader))
    reader.expect_end()
    return letter


def _read_message(reader: Reader) -> Message:
    match reader.read_byte():
        case _Kind.SAVED:
            return _read_saved(reader)
        case _Kind.PRESENCE_CHANGED:
            return PresenceChanged(_read_entries(reader))
        case _Kind.PRESENCE_ASKED:
            return PresenceAsked()
        case _Kind.ROLL_CALLED:
            return RollCalled()
        case _Kind.LOST:
            return Lost()
        case _Kind.RIGHTS_CHANGED:
            return RightsChanged(CourseId(_read_id(reader)))
        case _Kind.INVALIDATED:
            return Invalidated(_read_kind(reader), _read_id(reader))
    raise ProtocolViolation("a bus message is of an unknown kind")


def _read_id(reader: Reader) -> UUID:
    return UUID(bytes=reader.read_bytes(_ID_BYTES))


def _read_flag(reader: Reader) -> bool:
    flag = reader.read_byte()
    if flag > 1:
        raise ProtocolViolation("a flag is neither 0 nor 1")
    return flag == 1


def _read_kind(reader: Reader) -> str:
    kind = reader.read_var_string()
    if len(kind.encode()) > MAX_KIND_BYTES:
        raise ProtocolViolation("the name of a cache is too long")
    return kind


def _read_commit(reader: Reader) -> CommitId:
    commit = int.from_bytes(reader.read_bytes(_COMMIT_BYTES))
    if commit > _MAX_COMMIT:
        raise ProtocolViolation("a commit id has more than 63 bits")
    return CommitId(commit)


def _read_saved(reader: Reader) -> Saved:
    first, last = reader.read_var_uint(), reader.read_var_uint()
    if not 1 <= first <= last:
        raise ProtocolViolation("a commit begins before the log or ends before it begins")
    commit = _read_commit(reader)
    previous = _read_commit(reader) if _read_flag(reader) else None
    updates = None
    if _read_flag(reader):
        count = last - first + 1
        if count > reader.bytes_left:
            raise ProtocolViolation("a commit announces more updates than it holds")
        updates = tuple([reader.read_var_bytes() for _ in range(count)])
    return Saved(Seq(first), Seq(last), commit, previous, updates)


def _read_entries(reader: Reader) -> list[PresenceEntry]:
    count = reader.read_var_uint()
    if count * (_ID_BYTES + 4) > reader.bytes_left:
        raise ProtocolViolation("presence announces more entries than it holds")
    return [_read_entry(reader) for _ in range(count)]


def _read_entry(reader: Reader) -> PresenceEntry:
    connection, user_id = reader.read_var_uint(), UserId(_read_id(reader))
    said = AwarenessEntry(reader.read_var_uint(), reader.read_var_uint(), reader.read_var_bytes())
    # Clients would choke on anything else, and drop the rest of what they are told with it.
    if said.state != GONE and not isinstance(parse_json(said.state), dict):
        raise ProtocolViolation("an awareness state is not an object")
    return PresenceEntry(connection, user_id, said)
