"""Awareness payloads: who is present, as y-protocols `awareness.js` writes it (count, then client id, clock, JSON per entry).

The server stamps the user's identity into a state. Stock clients send every state they receive back, parsed and written
again by `JSON.parse` and `JSON.stringify`; so what we write must be what `JSON.stringify` writes, or echoes could not be told
by their bytes.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.lib0 import Reader, var_bytes, write_var_uint

MAX_STATE_DEPTH = 64
GONE = b"null"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_encode_string = json.JSONEncoder(ensure_ascii=False).encode
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGIT_FIRST = re.compile(rb'"[0-9]')
_DIGITS = frozenset("0123456789")
_ARRAY_INDEX = re.compile(r"(0|[1-9][0-9]{0,9})\Z")


@dataclass(slots=True)
class AwarenessEntry:
    """One client's presence. state: JSON in UTF-8; `GONE` when the client left."""

    client_id: int
    clock: int
    state: bytes


def decode_awareness(payload: bytes) -> list[AwarenessEntry]:
    """Return the entries of an awareness payload, their states unread. Raises ProtocolViolation."""
    reader = Reader(payload)
    count = reader.read_var_uint()
    if count * 3 > reader.bytes_left:
        raise ProtocolViolation("awareness announces more entries than it holds")
    entries = [
        AwarenessEntry(reader.read_var_uint(), reader.read_var_uint(), reader.read_var_bytes()) for _ in range(count)
    ]
    reader.expect_end()
    return entries


def encode_awareness(entries: Iterable[AwarenessEntry]) -> bytes:
    """Return the payload that holds these entries."""
    written = [write_var_uint(e.client_id) + write_var_uint(e.clock) + var_bytes(e.state) for e in entries]
    return write_var_uint(len(written)) + b"".join(written)


def stamp_user(state: bytes, user_id: str, user_name: str) -> bytes:
    """Return an awareness state with `user.id` and `user.name` set to what the server knows; the rest is the client's.

    state: JSON of an object. Raises ProtocolViolation when it is not JSON as JSON.parse takes it, no object, or too deep.
    """
    try:
        value, write = _parse_plain(state), _stringify_plain
    except _NotPlain:
        value, write = parse_json(state), stringify
    if not isinstance(value, dict):
        raise ProtocolViolation("an awareness state is not an object")
    user = value.get("user")
    value["user"] = {**(user if isinstance(user, dict) else {}), "id": user_id, "name": user_name}
    return write(value).encode()


def parse_json(text: bytes) -> Json:
    """Return what JSON.parse would; raises ProtocolViolation where it would throw, and for nesting deeper than 64."""
    return _parse(text, _decoder)


def _parse(text: bytes, decoder: json.JSONDecoder) -> Json:
    if text.count(b"[") + text.count(b"{") > MAX_STATE_DEPTH:
        _check_depth(text)
    try:
        value: Json = decoder.decode(text.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation("an awareness state is not JSON") from error
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity: Python reads them, JSON.parse throws and drops the rest of the frame


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


class _NotPlain(Exception):
    """A state holds something that Python and JavaScript write differently."""


def _parse_plain(text: bytes) -> Json:
    """Do as `parse_json` for values that Python's own encoder then writes as JSON.stringify does: those of nearly all states.

    Raises _NotPlain for others: with numbers that are written with an exponent somewhere, or keys that might be array indexes.
    """
    if b"\\u" in text or _DIGIT_FIRST.search(text):
        raise _NotPlain
    return _parse(text, _plain_decoder)


def _plain_int(text: str) -> int:
    if len(text) > 15:
        raise _NotPlain
    return int(text)


def _plain_float(text: str) -> float:
    number = float(text)
    if not 1e-4 <= abs(number) < 1e15:
        raise _NotPlain
    return int(number) if number.is_integer() else number


_plain_decoder = json.JSONDecoder(parse_float=_plain_float, parse_int=_plain_int, parse_constant=_refuse_constant)
_plain_encoder = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))


def _stringify_plain(value: Json) -> str:
    return _without_lone_surrogates(_plain_encoder.encode(value))


def _check_depth(text: bytes) -> None:
    depth, in_string, escaped = 0, False, False
    for byte in text:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_STATE_DEPTH:
                raise ProtocolViolation("an awareness state is nested too deep")
        elif byte in b"]}":
            depth -= 1


def stringify(value: Json) -> str:
    """Return exactly what JSON.stringify gives for a value that came from JSON (ECMAScript, SerializeJSONProperty)."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list):
        return "[" + ",".join([stringify(item) for item in value]) + "]"
    return "{" + ",".join([_quote(key) + ":" + stringify(value[key]) for key in _key_order(value)]) + "}"


def _key_order(value: dict[str, Json]) -> list[str]:
    """Array-index keys first, ascending, then the others as they came (ECMAScript, OrdinaryOwnPropertyKeys)."""
    indexes = [key for key in value if key[:1] in _DIGITS and _ARRAY_INDEX.match(key) and int(key) < 2**32 - 1]
    if not indexes:
        return list(value)
    taken = set(indexes)
    return sorted(indexes, key=int) + [key for key in value if key not in taken]


def _quote(text: str) -> str:
    return _without_lone_surrogates(_encode_string(text))


def _without_lone_surrogates(written: str) -> str:
    """JSON.stringify escapes them; a whole pair is one character here."""
    if written.isascii():
        return written
    return _LONE_SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", written)


def _number(value: float) -> str:
    if isinstance(value, int) and abs(value) < 2**53:
        return str(value)
    if 1e-4 <= abs(value) < 1e15:
        return repr(value).removesuffix(".0")  # here Python and JavaScript lay the same shortest digits out alike
    try:
        number = float(value)
    except OverflowError:
        return "null"
    if not math.isfinite(number):
        return "null"
    if number == 0:
        return "0"
    # The shortest digits that read back the same, laid out by ECMAScript Number::toString.
    _, digit_tuple, exponent = Decimal(repr(abs(number))).normalize().as_tuple()
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + int(exponent)
    sign = "-" if number < 0 else ""
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    fraction = "." + digits[1:] if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{'+' if point > 0 else '-'}{abs(point - 1)}"
