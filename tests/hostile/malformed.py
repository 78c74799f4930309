"""Named malformed messages, each with what the server must do: close that socket with a code, or go on unmoved."""

from typing import Final, NamedTuple

from constructure_sync.protocol.closes import RATE, TOO_LARGE, VIOLATION
from constructure_sync.protocol.lib0 import var_bytes, var_string
from constructure_sync.protocol.messages import sync_step2, update_message
from tests.unit.protocol.updates import gc, item, section, skip, text, uints, update

OURS: Final = 901
HUGE: Final = (2**20, 2**28, 2**31, 2**32, 2**52)
ENDLESS: Final = b"\xff" * 9 + b"\x01"
"""2^64-1 as a varUint of ten bytes."""

GC, DELETED, JSON, BINARY, STRING, EMBED, FORMAT, TYPE, ANY, DOC = range(10)


class Case(NamedTuple):
    """What is sent, message by message, and the close code that must follow; None: nothing happens at all."""

    messages: list[bytes]
    code: int | None = VIOLATION


def one(*structs: bytes, client: int = OURS, clock: int = 0) -> bytes:
    """An update of one section."""
    return update(section(client, clock, *structs))


def any_value(*values: bytes) -> bytes:
    return item(ANY, uints(len(values)) + b"".join(values))


def nested_any(depth: int) -> bytes:
    return any_value(b"\x75\x01" * depth + b"\x7e")


def nested_types(depth: int) -> bytes:
    """Shared types, each in the one before."""
    array = uints(0)
    structs = [item(TYPE, array), *(item(TYPE, array, parent=(OURS, clock)) for clock in range(depth - 1))]
    return one(*structs)


def _updates() -> dict[str, bytes]:
    """Updates that are refused with 4400."""
    hello = one(text("hello"))
    cases = {
        "nothing at all": b"",
        "one byte": b"\x01",
        "trailing byte": hello + b"\x00",
        "only a section": hello[:-1],
        "section without structs": uints(1, 0, OURS, 0) + b"\x00",
        "section without structs of a known client": uints(1, 0, 77, 1) + b"\x00",
        "two sections of one client": update(section(OURS, 0, text("a")), section(OURS, 1, text("b", (OURS, 0)))),
        "map of maps, each declared huge": one(any_value((b"\x76" + uints(2**22) + var_string("k")) * 40)),
        "values nested 65": one(nested_any(65)),
        "values nested 10,000": one(nested_any(10_000)),
        "values nested 25,900": one(nested_any(25_900)),
        "values nested 26,000": one(nested_any(26_000)),
        "values nested 200,000": one(nested_any(200_000)),
        "objects nested 26,000": one(any_value((b"\x76\x01" + var_string("k")) * 26_000 + b"\x7e")),
        "JSON of an embed nested 100,000": one(item(EMBED, var_string("[" * 100_000 + "]" * 100_000))),
        "JSON of a format nested 100,000": one(
            item(FORMAT, var_string("k") + var_string('{"a":' * 100_000 + "1" + "}" * 100_000))
        ),
        "embed that is not JSON": one(item(EMBED, var_string("{"))),
        "embed of NaN": one(item(EMBED, var_string("NaN"))),
        "ContentJSON": one(item(JSON, uints(1) + var_string("1"))),
        "ContentJSON with one value too many": one(item(JSON, uints(1) + var_string("1") + var_string("2"))),
        "client id 2^53": _with_client(write_unbounded(2**53)),
        "client id 2^64-1": _with_client(ENDLESS),
        "clock that passes 2^32": one(text("abc"), clock=2**32 - 1),
        "GC that passes 2^32": one(gc(2**32)),
        "skip that passes 2^32": one(skip(2**32), text("a")),
        "deleted length that passes 2^32": one(item(DELETED, uints(2**32))),
        "GC without length": one(gc(0)),
        "skip without length": one(skip(0)),
        "deleted without length": one(item(DELETED, uints(0))),
        "empty string": one(text("")),
        "no values": one(any_value()),
        "text that is not UTF-8": one(item(STRING, var_bytes(b"\xc3\x28"))),
        "surrogate in UTF-8": one(item(STRING, var_bytes(b"\xed\xa0\x80"))),
        "key that is not UTF-8": one(b"\x24\x01" + var_string("t") + var_bytes(b"\xff") + var_string("a")),
        "root name that is not UTF-8": one(b"\x04\x01" + var_bytes(b"\xff") + var_string("a")),
        "value that is not UTF-8": one(any_value(b"\x77" + var_bytes(b"\xff"))),
        "XML name that is not UTF-8": one(item(TYPE, uints(3) + var_bytes(b"\xff"))),
        "unknown kind of value": one(any_value(b"\x73")),
        "XML hook": one(item(TYPE, uints(5) + var_string("hook"))),
        "XML hook without a name": one(item(TYPE, uints(5))),
        "options of a subdocument not an object": one(item(DOC, var_string("guid") + b"\x7e")),
        "parent neither root nor item": one(b"\x04\x02" + var_string("t") + var_string("a")),
        "origin is the item itself": one(text("a", (OURS, 0))),
        "origin in the future": one(text("a", (OURS, 5))),
        "right origin in the future": one(text("a", None, (OURS, 5))),
        "parent is the item itself": one(text("a", parent=(OURS, 0))),
        "parent is a text": one(text("ab"), text("c", parent=(OURS, 0))),
        "parent is a text that is known": one(text("c", parent=(77, 0))),
        "types nested 65": nested_types(65),
        "types nested 1,000": nested_types(1000),
        "types nested 50,000": nested_types(50_000),
        "delete range without length": b"\x00" + uints(1, OURS, 1, 0, 0),
        "delete range that passes 2^32": b"\x00" + uints(1, OURS, 1, 2**32 - 1, 2),
        "delete set of 2^64-1 clients": b"\x00" + ENDLESS,
    }
    cases |= {f"type {reference}": one(item(TYPE, uints(reference))) for reference in (7, 9, 15, 2**31)}
    cases |= {f"content {kind}": one(item(kind, uints(1) + b"\x00")) for kind in range(11, 32)}
    for count in HUGE:
        cases |= {
            f"{count} sections declared": uints(count, 1, OURS, 0) + b"\x00\x01\x00",
            f"{count} structs declared": uints(1, count, OURS, 0) + b"\x00\x01\x00",
            f"array of {count} declared": one(any_value(b"\x75" + uints(count))),
            f"map of {count} declared": one(any_value(b"\x76" + uints(count))),
            f"{count} values declared": one(item(ANY, uints(count) + b"\x7e")),
            f"text of {count} declared": one(item(STRING, uints(count) + b"a")),
            f"delete set of {count} clients declared": b"\x00" + uints(count, OURS, 1, 0, 1),
            f"{count} delete ranges declared": b"\x00" + uints(1, OURS, count, 0, 1),
        }
    cases |= {f"number of {size} bytes": b"\x80" * (size - 1) + b"\x01\x00" for size in (11, 1000, 10**6)}
    return cases


def write_unbounded(number: int) -> bytes:
    """A varUint of any size."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _with_client(encoded: bytes) -> bytes:
    return uints(1, 1) + encoded + uints(0) + text("a") + b"\x00"


def _too_large() -> dict[str, bytes]:
    """Updates that are refused with 4413."""
    return {
        "80,000 clients": update(*(section(2**33 * n, 0, text("a")) for n in range(1, 80_001))),
        "16,000 clients whose ids collide": update(*(section(2**16 * n, 0, text("a")) for n in range(1, 16_001))),
        "50,000 subdocuments": one(
            *(item(DOC, var_string(f"guid{n}") + b"\x76\x00", (OURS, n - 1) if n else None) for n in range(50_000))
        ),
        "1,000,001 delete ranges": b"\x00" + uints(1, OURS, 1_000_001) + b"\x00\x01" + b"\x02\x01" * 1_000_000,
    }


def _awareness(*entries: tuple[int, int, str]) -> bytes:
    written = b"".join(uints(client, clock) + var_string(state) for client, clock, state in entries)
    return b"\x01" + var_bytes(uints(len(entries)) + written)


def _outer() -> dict[str, Case]:
    """Messages that are malformed around their payload."""
    cases = {
        "empty message": Case([b""]),
        "type without sub-type": Case([b"\x00"]),
        "update without length": Case([b"\x00\x02"]),
        "length beyond the message": Case([b"\x00\x02\x05\x00\x00"]),
        "bytes behind an update": Case([update_message(one(text("a"))) + b"\x00"]),
        "bytes behind a question": Case([b"\x00\x00\x01\x00\x00"]),
        "auth message": Case([b"\x02\x00" + var_string("no")]),
        "receipt from a client": Case([b"\x78\x01\x01"]),
        "unknown type": Case([b"\x05\x00"]),
        "unknown sub-type": Case([b"\x00\x03\x00"]),
        "two messages in one frame": Case([update_message(one(text("a"))) * 2]),
    }
    for size in (11, 10_000, 100_000, 400_000):
        number = b"\x80" * (size - 1) + b"\x01"
        cases |= {
            f"type of {size} bytes": Case([number]),
            f"sub-type of {size} bytes": Case([b"\x00" + number]),
            f"length of {size} bytes": Case([b"\x00\x02" + number]),
            f"awareness length of {size} bytes": Case([b"\x01" + number]),
        }
    for size in (11, 10_000):
        number = b"\x80" * (size - 1) + b"\x01"
        cases[f"awareness count of {size} bytes"] = Case([b"\x01" + var_bytes(number)])
    return cases


def _state_vectors() -> dict[str, Case]:
    cases = {
        f"state vector of {count} clients declared": Case([b"\x00\x00" + var_bytes(uints(count))])
        for count in (2**20, 2**27, 2**28, 2**32)
    }
    cases |= {
        "state vector of 2^64-1 clients declared": Case([b"\x00\x00" + var_bytes(ENDLESS)]),
        "state vector of nothing": Case([b"\x00\x00" + var_bytes(b"")]),
        "state vector with a client twice": Case([b"\x00\x00" + var_bytes(uints(2, 5, 1, 5, 2))]),
        "state vector with a clock beyond 32 bits": Case([b"\x00\x00" + var_bytes(uints(1, 5, 2**32))]),
        "state vector cut off": Case([b"\x00\x00" + var_bytes(uints(2, 5, 1))]),
        "state vector with bytes behind": Case([b"\x00\x00" + var_bytes(uints(1, 5, 1, 9))]),
        "state vector of 100,001 clients": Case(
            [b"\x00\x00" + var_bytes(uints(100_001) + b"".join(uints(n, 1) for n in range(100_001)))], TOO_LARGE
        ),
    }
    return cases


def _presence() -> dict[str, Case]:
    deep = "[" * 100_000 + "]" * 100_000
    cases = {
        f"presence that is {name}": Case([_awareness((OURS, 1, state))])
        for name, state in {
            "NaN": "NaN",
            "a number": "5",
            "an array": "[]",
            "a string": '"x"',
            "true": "true",
            "no JSON": "{",
            "empty": "",
            "Infinity inside": '{"a":Infinity}',
            "two values": "{}{}",
            "nested 65": '{"a":' * 65 + "1" + "}" * 65,
            "nested 1,000": '{"a":' + "[" * 1000 + "]" * 1000 + "}",
        }.items()
    }
    return cases | {
        "presence nested 100,000": Case([_awareness((OURS, 1, deep))], TOO_LARGE),
        "presence of 200,000 ids": Case([_awareness(*((n, 1, "{}") for n in range(200_000)))], TOO_LARGE),
        "presence of 8,000 ids": Case([_awareness(*((n, 1, "{}") for n in range(1000, 9000)))], None),
        "presence with a clock of 2^70": Case(
            [b"\x01" + var_bytes(uints(1, OURS) + write_unbounded(2**70) + var_string("{}"))]
        ),
        "presence of the id 2^70": Case(
            [b"\x01" + var_bytes(uints(1) + write_unbounded(2**70) + uints(1) + var_string("{}"))]
        ),
        "presence that is not UTF-8": Case([b"\x01" + var_bytes(uints(1, OURS, 1) + var_bytes(b'{"a":"\xff"}'))]),
        "presence of which half is good": Case([_awareness((OURS, 1, "{}"), (OURS + 1, 1, "NaN"))]),
        "presence cut off": Case([b"\x01" + var_bytes(uints(2, OURS, 1) + var_string("{}"))]),
        "presence of 5 KiB": Case([_awareness((OURS + 7, 1, '{"a":"' + "x" * 5000 + '"}'))], TOO_LARGE),
        "presence in a flood": Case([_awareness((OURS, n, f'{{"n":{n}}}')) for n in range(1, 1000)], RATE),
        "null of an unknown id with a huge clock": Case([_awareness((123_456, 2**53 - 1, "null"))], None),
    }


def _tolerated() -> dict[str, Case]:
    """What adds nothing and closes nothing."""
    far = [one(text("x", (OURS, n * 10)), clock=n * 10 + 1) for n in range(1, 5001)]
    return {
        "5,000 updates that each miss something": Case([update_message(each) for each in far], None),
        "a gap": Case([update_message(one(text("late", (OURS, 4)), clock=5))], None),
        "a gap in the middle": Case([update_message(one(skip(3), text("x", (OURS, 2))))], None),
        "deletes of what nobody has": Case([update_message(update(deletes=((OURS, 0, 1000),)))], None),
        "300,000 delete ranges of what nobody has": Case(
            [update_message(b"\x00" + uints(1, OURS, 300_000) + b"\x00\x01" + b"\x02\x01" * 299_999)], None
        ),
        "an update of nothing": Case([update_message(update())], None),
        "delete set with a client without ranges": Case([update_message(b"\x00" + uints(1, OURS, 0))], None),
        "the same nothing, often": Case([sync_step2(update())] * 500, None),
    }


CASES: Final[dict[str, Case]] = {
    **{name: Case([update_message(malformed)]) for name, malformed in _updates().items()},
    **{f"{name} (as an answer)": Case([sync_step2(malformed)]) for name, malformed in list(_updates().items())[::7]},
    **{name: Case([update_message(large)], TOO_LARGE) for name, large in _too_large().items()},
    **_outer(),
    **_state_vectors(),
    **_presence(),
    **_tolerated(),
}
