"""The strict reader of Yjs V1 updates: hostile bytes in; where each struct lies and what it refers to out.

It refuses what stock clients never write and what some client or pycrdt cannot survive (zero-length structs, unknown
types, deep nesting, clocks beyond 32 bits, references into the future, …), so what passes can be stored and relayed as
it is. Nothing of the content is kept but where it lies.

Source of the format: Yjs `utils/encoding.js`, `structs/*.js`, `utils/DeleteSet.js`. An update is a varUint count of
sections, the sections, and a delete set. A section is varUint count of structs, client, first clock, and the structs,
each an info byte (bits 1–5 content reference, 6 has a parent key, 7 has a right origin, 8 has an origin), ids,
content.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.id_ranges import MAX_CLOCK, Range, read_delete_ranges
from constructure_sync.protocol.lib0 import MAX_VAR_BYTES, Reader, read_var_uint

GC, DELETED, BINARY, STRING, EMBED, FORMAT, TYPE, ANY, DOC, SKIP = 0, 1, 3, 4, 5, 6, 7, 8, 9, 10

HAS_ORIGIN, HAS_RIGHT_ORIGIN, HAS_PARENT_KEY, REFERENCE = 0x80, 0x40, 0x20, 0x1F

_TYPE_REFERENCES = 7
_XML_ELEMENT, _XML_HOOK = 3, 5
"""An element carries a name. A hook carries one in Yjs and none in yrs: no bytes of a hook are right for both."""

Id = tuple[int, int]
"""(client, clock)"""


@dataclass(frozen=True, slots=True)
class UpdateLimits:
    """What one update may hold.

    The first four guard memory and time: above them the close code is 4413. Depths are of nested shared types, and of
    nested arrays and objects in plain content.
    """

    max_structs: int = 1_000_000
    max_clients: int = 4096
    max_delete_ranges: int = 1_000_000
    max_subdocs: int = 1000
    max_depth: int = 64
    max_any_depth: int = 64


DEFAULT_LIMITS = UpdateLimits()

STORED_LIMITS = UpdateLimits(
    max_structs=2**32, max_clients=2**32, max_delete_ranges=2**32, max_subdocs=2**32, max_depth=2**14, max_any_depth=64
)
"""For bytes that were taken already, and may have grown by joining. Only plain nesting stays limited."""


class Struct(NamedTuple):
    """One struct of an update: which clocks it takes, where its bytes lie, what it refers to.

    kind: the content reference (GC, DELETED, …); clock, end: half-open clocks; start, content, stop: offsets of the
    info byte, of the content and of the byte after it; origin, right_origin: ids or absent; parent: the id of the
    parent item, absent when the parent is a root or follows from the origins.
    """

    kind: int
    clock: int
    end: int
    start: int
    content: int
    stop: int
    origin: Id | None
    right_origin: Id | None
    parent: Id | None


class Section(NamedTuple):
    """The structs of one client, contiguous in clocks."""

    client: int
    structs: list[Struct]


class ParsedUpdate(NamedTuple):
    """An update as read.

    deletes: the delete ranges in the order they came, possibly overlapping; tidy: whether every client of the delete
    set has a range (otherwise the bytes are better written anew).
    """

    data: bytes
    sections: list[Section]
    deletes: list[Range]
    tidy: bool


def read_update(data: bytes, limits: UpdateLimits = DEFAULT_LIMITS) -> ParsedUpdate:
    """Read a whole V1 update.

    Raises ProtocolViolation for anything that is not exactly one well-formed update within the limits.
    """
    try:
        sections, position = _read_sections(data, limits)
        reader = Reader(data, position)
        deletes, tidy = read_delete_ranges(reader, limits.max_delete_ranges)
        reader.expect_end()
    except IndexError:
        raise ProtocolViolation("update ends too early") from None
    except UnicodeDecodeError:
        raise ProtocolViolation("string is not UTF-8") from None
    return ParsedUpdate(data, sections, deletes, tidy)


def _read_sections(data: bytes, limits: UpdateLimits) -> tuple[list[Section], int]:
    """Give the sections and the position of the delete set. An IndexError, here and below, means: it ends too early."""
    count, position = read_var_uint(data, 0)
    if count * 5 > len(data) - position:
        raise ProtocolViolation("update declares more sections than it holds")
    if count > limits.max_clients:
        raise ProtocolViolation("too many clients in an update", 4413)
    sections: list[Section] = []
    seen: set[int] = set()
    structs_left, subdocs_left = limits.max_structs, limits.max_subdocs
    for _ in range(count):
        structs, position = read_var_uint(data, position)
        client_at = position
        client, position = read_var_uint(data, position)
        client_bytes = data[client_at:position]
        clock, position = read_var_uint(data, position)
        if structs == 0:
            raise ProtocolViolation("section without structs")
        if structs * 2 > len(data) - position:
            raise ProtocolViolation("section declares more structs than it holds")
        if client in seen:
            raise ProtocolViolation("two sections of one client")
        seen.add(client)
        structs_left -= structs
        if structs_left < 0:
            raise ProtocolViolation("too many structs in an update", 4413)
        section, position = _read_structs(data, position, structs, client, client_bytes, clock, limits)
        subdocs_left -= sum(struct.kind == DOC for struct in section)
        if subdocs_left < 0:
            raise ProtocolViolation("too many subdocuments in an update", 4413)
        sections.append(Section(client, section))
    return sections, position


def _read_structs(
    data: bytes, position: int, count: int, client: int, client_bytes: bytes, clock: int, limits: UpdateLimits
) -> tuple[list[Struct], int]:
    """Read the structs of one section; written for speed: single-byte numbers and the section's own client inline."""
    structs: list[Struct] = []
    make, size = tuple.__new__, len(client_bytes)
    origin: Id | None
    right_origin: Id | None
    parent: Id | None
    for _ in range(count):
        start = position
        info = data[position]
        position += 1
        kind = info & REFERENCE
        origin = right_origin = parent = None
        if kind in (GC, SKIP):
            if info != kind:
                raise ProtocolViolation("GC or Skip with item bits")
            content = position
            length, position = read_length(data, position, limits)
        else:
            if info & HAS_ORIGIN:
                if data.startswith(client_bytes, position):
                    other = client
                    position += size
                else:
                    other, position = read_var_uint(data, position)
                at, position = read_var_uint(data, position)
                if other == client and at >= clock:
                    raise ProtocolViolation("origin is not before the struct")
                origin = (other, at)
            if info & HAS_RIGHT_ORIGIN:
                if data.startswith(client_bytes, position):
                    other = client
                    position += size
                else:
                    other, position = read_var_uint(data, position)
                at, position = read_var_uint(data, position)
                if other == client and at >= clock:
                    raise ProtocolViolation("right origin is not before the struct")
                right_origin = (other, at)
            elif origin is None:
                parent, position = _read_parent(data, position, client, clock, info)
            content = position
            length, position = CONTENT_READERS[kind](data, position, limits)
        end = clock + length
        if end > MAX_CLOCK:
            raise ProtocolViolation("clock is beyond 32 bits")
        structs.append(make(Struct, (kind, clock, end, start, content, position, origin, right_origin, parent)))
        clock = end
    return structs, position


def _read_parent(data: bytes, position: int, client: int, clock: int, info: int) -> tuple[Id | None, int]:
    """Read where an item without origins hangs: a root's name or the id of an item, then perhaps a key."""
    by_name = data[position]
    position += 1
    parent = None
    if by_name == 1:
        position = skip_string(data, position)
    elif by_name == 0:
        other, position = read_var_uint(data, position)
        at, position = read_var_uint(data, position)
        if other == client and at >= clock:
            raise ProtocolViolation("parent is not before the struct")
        parent = (other, at)
    else:
        raise ProtocolViolation("parent is neither a root nor an item")
    if info & HAS_PARENT_KEY:
        position = skip_string(data, position)
    return parent, position


def _slice(data: bytes, position: int) -> tuple[bytes, int]:
    """Give a byte string that carries its length in front, and the position after it."""
    size = data[position]
    position += 1
    if size >= 0x80:
        size, position = read_var_uint(data, position - 1)
    stop = position + size
    if stop > len(data):
        raise ProtocolViolation("length is beyond the end of the update")
    return data[position:stop], stop


def skip_string(data: bytes, position: int) -> int:
    """Give the position after a string."""
    text, position = _slice(data, position)
    text.decode()
    return position


def utf16_length(encoded: bytes) -> int:
    """Give the length of UTF-8 text in UTF-16 code units, which is how Yjs counts; UnicodeDecodeError if ill-formed."""
    text = encoded.decode()
    return len(encoded) if len(text) == len(encoded) else len(text.encode("utf-16-le")) >> 1


def read_length(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    """Read the length of a GC, Skip or ContentDeleted."""
    length, position = read_var_uint(data, position)
    if length == 0:
        raise ProtocolViolation("struct without length")
    return length, position


def _read_refused(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    """Refuse an unknown content reference; also ContentJSON (2), written by no living client and misread by yrs."""
    raise ProtocolViolation("unknown kind of content")


def _read_binary(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    return 1, _slice(data, position)[1]


def _read_string(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    text, position = _slice(data, position)
    if not text:
        raise ProtocolViolation("empty string content")
    return utf16_length(text), position


def _read_embed(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    text, position = _slice(data, position)
    check_json(text.decode(), limits.max_any_depth)
    return 1, position


def _read_format(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    return _read_embed(data, skip_string(data, position), limits)


def _read_type(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    reference, position = read_var_uint(data, position)
    if reference >= _TYPE_REFERENCES or reference == _XML_HOOK:
        raise ProtocolViolation("unknown shared type")
    if reference == _XML_ELEMENT:
        position = skip_string(data, position)
    return 1, position


def _read_any_list(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    count, position = read_var_uint(data, position)
    if count == 0:
        raise ProtocolViolation("empty list of values")
    if count > len(data) - position:
        raise ProtocolViolation("list declares more values than it holds")
    for _ in range(count):
        position = skip_any(data, position, limits.max_any_depth)
    return count, position


def _read_doc(data: bytes, position: int, limits: UpdateLimits) -> tuple[int, int]:
    position = skip_string(data, position)
    if data[position] != 118:
        raise ProtocolViolation("subdocument options are not an object")
    return 1, skip_any(data, position, limits.max_any_depth)


CONTENT_READERS: tuple[Callable[[bytes, int, UpdateLimits], tuple[int, int]], ...] = (
    _read_refused,
    read_length,
    _read_refused,
    _read_binary,
    _read_string,
    _read_embed,
    _read_format,
    _read_type,
    _read_any_list,
    _read_doc,
    *(_read_refused for _ in range(22)),
)
"""By content reference: reads the content at a position, gives its length in clocks and the position after it."""

_FIXED_SIZE = {127: 0, 126: 0, 124: 4, 123: 8, 122: 8, 121: 0, 120: 0}


def skip_any(data: bytes, position: int, depth_left: int) -> int:
    """Give the position after one lib0 `Any` value, which may nest `depth_left` arrays and objects."""
    tag = data[position]
    position += 1
    if tag == 119:
        return skip_string(data, position)
    if tag == 125:
        return _skip_var_int(data, position)
    if tag in _FIXED_SIZE:
        return position + _FIXED_SIZE[tag]
    if tag == 116:
        return _slice(data, position)[1]
    if tag != 118 and tag != 117:
        raise ProtocolViolation("unknown kind of value")
    if depth_left == 0:
        raise ProtocolViolation("value nested too deep")
    count, position = read_var_uint(data, position)
    if count * (2 if tag == 118 else 1) > len(data) - position:
        raise ProtocolViolation("value declares more entries than it holds")
    for _ in range(count):
        if tag == 118:
            position = skip_string(data, position)
        position = skip_any(data, position, depth_left - 1)
    return position


def _skip_var_int(data: bytes, position: int) -> int:
    if data[position] < 0x80:
        return position + 1
    rest, stop = read_var_uint(data, position + 1)
    if stop - position > MAX_VAR_BYTES or rest >= 1 << 47:
        raise ProtocolViolation("integer above 2^53-1")
    return stop


def _refuse_constant(name: str) -> None:
    raise ProtocolViolation("JSON holds NaN or Infinity")


def check_json(text: str, max_depth: int) -> None:
    """Raise ProtocolViolation unless the text is JSON that every client and pycrdt read alike.

    Beyond the grammar: no number that overflows, no lone surrogate (serde_json refuses both), nesting up to
    `max_depth`.
    """
    try:
        value = json.loads(text, parse_int=float, parse_constant=_refuse_constant)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ProtocolViolation("content is not JSON") from None
    if text.count("[") + text.count("{") > max_depth:
        _check_depth(value, max_depth)


def _check_depth(value: object, depth_left: int) -> None:
    if not isinstance(value, (list, dict)):
        return
    if depth_left == 0:
        raise ProtocolViolation("value nested too deep")
    for inner in value.values() if isinstance(value, dict) else value:
        _check_depth(inner, depth_left - 1)
