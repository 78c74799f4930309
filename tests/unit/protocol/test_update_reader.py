import random

import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol import update_reader
from constructure_sync.protocol.lib0 import var_bytes, var_string
from constructure_sync.protocol.readers import ReadUpdate
from constructure_sync.protocol.update_reader import UpdateLimits
from tests.compiled import compiled
from tests.unit.protocol.updates import gc, item, section, skip, text, uints, update


@pytest.fixture(params=["python", "compiled"])
def read_update(request: pytest.FixtureRequest) -> ReadUpdate:
    return update_reader.read_update if request.param == "python" else compiled().read_update


def any_list(*values: bytes) -> bytes:
    return uints(len(values)) + b"".join(values)


def one(struct: bytes, client: int = 1, clock: int = 0) -> bytes:
    return update(section(client, clock, struct))


NULL = b"\x7e"

HOSTILE = {
    "empty": b"",
    "one byte": b"\x01",
    "trailing byte": update() + b"\x00",
    "2^20 clients declared": uints(2**20),
    "2^53-1 clients declared": uints(2**53 - 1),
    "2^64-1 clients declared": b"\xff" * 9 + b"\x01",
    "2^28 structs declared": uints(1, 2**28, 1, 0),
    "integer of 11 bytes": b"\x01" + b"\x80" * 10 + b"\x00",
    "integer of a million bytes": b"\x01" + b"\x80" * 1_000_000,
    "Any list declares 2^20": one(item(8, uints(2**20))),
    "Any array declares 2^27": one(item(8, b"\x01\x75" + uints(2**27))),
    "Any object declares 2^27": one(item(8, b"\x01\x76" + uints(2**27))),
    "delete set declares 2^30 ranges": b"\x00" + uints(1, 1, 2**30),
    "delete set declares 2^32 clients": b"\x00" + uints(2**32),
    "Any nested 65": one(item(8, b"\x01" + b"\x75\x01" * 65 + NULL)),
    "Any nested 26,000": one(item(8, b"\x01" + b"\x75\x01" * 26_000 + NULL)),
    "Any objects nested 26,000": one(item(8, b"\x01" + b"\x76\x01\x01a" * 26_000 + NULL)),
    "embed nested 65": one(item(5, var_string("[" * 65 + "]" * 65))),
    "embed nested 100,000": one(item(5, var_string("[" * 100_000 + "]" * 100_000))),
    "format nested 100,000": one(item(6, var_string("b") + var_string('{"a":' * 100_000 + "1" + "}" * 100_000))),
    "section without structs": uints(1, 0, 1, 0, 0),
    "two sections of a client": update(section(1, 0, text("a")), section(1, 1, text("b"))),
    "legacy JSON content": one(item(2, uints(1) + var_string("1"))),
    "client 2^53": b"\x01\x01" + b"\x80" * 7 + b"\x10" + b"\x00" + text("a") + b"\x00",
    "client 2^64-1": b"\x01\x01" + b"\xff" * 9 + b"\x01\x00" + text("a") + b"\x00",
    "clock wraps at 2^32": one(text("abc"), clock=2**32 - 1),
    "GC of 2^32-1 after clock 1": one(gc(2**32 - 1), clock=1),
    "GC of 2^32": one(gc(2**32)),
    "Skip of 2^32": one(skip(2**32)),
    "deleted of 2^32": one(item(1, uints(2**32))),
    "deleted range beyond 2^32": update(deletes=((1, 2**32 - 1, 2**32),)),
    "zero-length GC": one(gc(0)),
    "zero-length Skip": one(skip(0)),
    "zero-length deleted": one(item(1, uints(0))),
    "empty string": one(text("")),
    "empty Any list": one(item(8, uints(0))),
    "empty delete range": b"\x00" + uints(1, 1, 1, 0, 0),
    "delete set names a client twice": b"\x00" + uints(2, 1, 1, 0, 1, 1, 1, 3, 1),
    "ill-formed UTF-8 in text": one(item(4, var_bytes(b"\xff"))),
    "surrogate in UTF-8": one(item(4, var_bytes(b"\xed\xa0\x80"))),
    "ill-formed UTF-8 in a root's name": one(b"\x04\x01" + var_bytes(b"\xff") + var_string("a")),
    "ill-formed UTF-8 in a key": one(b"\x24\x01" + var_string("t") + var_bytes(b"\xc3") + var_string("a")),
    "ill-formed UTF-8 in Any": one(item(8, any_list(b"\x77" + var_bytes(b"\xff")))),
    "ill-formed UTF-8 in an element's name": one(item(7, uints(3) + var_bytes(b"\xff"))),
    "type reference 7": one(item(7, uints(7))),
    "type reference 9": one(item(7, uints(9))),
    "type reference 15": one(item(7, uints(15))),
    "XmlHook without a name": one(item(7, uints(5)))[:-1],
    "XmlHook with a name, which yrs misreads": one(item(7, uints(5) + var_string("h"))),
    "XmlElement without a name": one(item(7, uints(3)))[:-1],
    "subdocument options are a list": one(item(9, var_string("g") + b"\x75\x00")),
    "subdocument options are null": one(item(9, var_string("g") + NULL)),
    "own origin": one(text("a", origin=(1, 0))),
    "future origin": one(text("a", origin=(1, 9)), clock=3),
    "own right origin": one(text("a", right=(1, 0))),
    "parent is itself": one(text("a", parent=(1, 0))),
    "content reference 11": one(item(11, b"\x01")),
    "content reference 31": one(item(31, b"\x01")),
    "GC with an origin bit": one(b"\x80" + uints(1)),
    "Skip with a right origin bit": one(b"\x4a" + uints(1)),
    "parent info 2": one(b"\x04\x02" + var_string("a")),
    "unknown Any": one(item(8, any_list(b"\x73"))),
    "Any integer of 2^53": one(item(8, any_list(b"\x7d" + b"\x80" * 7 + b"\x20"))),
    "Any integer without end": one(item(8, any_list(b"\x7d" + b"\xff" * 50))),
    "Any number cut off": one(item(8, any_list(b"\x7b\x00\x00")))[:-1],
    "string longer than the update": one(item(4, uints(2**40))),
    "binary longer than the update": one(item(3, uints(2**40))),
    "embed NaN": one(item(5, var_string("NaN"))),
    "embed -Infinity": one(item(5, var_string("[-Infinity]"))),
    "embed number overflows": one(item(5, var_string("1e999"))),
    "embed integer overflows": one(item(5, var_string("1" * 400))),
    "embed integer of 10,000 digits": one(item(5, var_string("1" * 10_000))),
    "embed lone surrogate": one(item(5, var_string('"\\ud800"'))),
    "embed is empty": one(item(5, var_string(""))),
    "embed with a byte order mark": one(item(5, var_string("\ufeff1"))),
    "embed with a raw control character": one(item(5, var_string('"\x01"'))),
    "embed with a trailing comma": one(item(5, var_string("[1,]"))),
    "format value is no JSON": one(item(6, var_string("bold") + var_string("yes"))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_update_is_refused(name: str, read_update: ReadUpdate) -> None:
    with pytest.raises(ProtocolViolation) as refusal:
        read_update(HOSTILE[name])
    assert refusal.value.code == 4400


TOO_LARGE = {
    "80,000 clients": (update(*(section(n, 0, gc(1)) for n in range(80_000))), UpdateLimits()),
    "too many structs": (update(section(1, 0, gc(1), gc(1)), section(2, 0, gc(1))), UpdateLimits(max_structs=2)),
    "too many delete ranges": (
        update(deletes=tuple((1, 2 * n, 2 * n + 1) for n in range(3))),
        UpdateLimits(max_delete_ranges=2),
    ),
    "1,001 subdocuments": (
        update(section(1, 0, *(item(9, var_string("g") + b"\x76\x00") for _ in range(1001)))),
        UpdateLimits(),
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_an_update_beyond_the_limits_is_too_large(name: str, read_update: ReadUpdate) -> None:
    encoded, limits = TOO_LARGE[name]
    with pytest.raises(ProtocolViolation) as refusal:
        read_update(encoded, limits)
    assert refusal.value.code == 4413


EVERYTHING = update(
    section(
        2**53 - 1,
        4,
        gc(3),
        text("a😀é"),
        item(1, uints(2), origin=(2**53 - 1, 7)),
        item(3, var_bytes(b"\x00\xff"), right=(2**53 - 1, 8)),
        item(5, var_string('{"a":[1,"\\ud83d\\ude00"]}'), parent=(5, 3)),
        item(6, var_string("bold") + var_string("null")),
        item(7, uints(3) + var_string("p"), key="k"),
        item(7, uints(6)),
        item(
            8,
            any_list(
                b"\x7f", b"\x7e", b"\x7d\x41", b"\x7c" + b"\x00" * 4, b"\x7b" + b"\x00" * 8, b"\x7a" + b"\x00" * 8
            ),
        ),
        item(
            8,
            any_list(b"\x79", b"\x78", b"\x77\x01a", b"\x76\x01\x01a\x75\x02\x7e\x7e", b"\x74\x01\xff"),
            origin=(5, 0),
            key="x",
        ),
        item(9, var_string("guid") + b"\x76\x00"),
        skip(5),
    ),
    section(5, 0, text("b", origin=(9, 1), right=(9, 2))),
    deletes=((9, 5, 6), (9, 0, 3), (4, 1, 2)),
)


def test_every_kind_of_content_is_read(read_update: ReadUpdate) -> None:
    parsed = read_update(EVERYTHING)
    first, second = parsed.sections
    assert first.client == 2**53 - 1
    assert [struct.kind for struct in first.structs] == [0, 4, 1, 3, 5, 6, 7, 7, 8, 8, 9, 10]
    assert [struct.end - struct.clock for struct in first.structs] == [3, 4, 2, 1, 1, 1, 1, 1, 6, 5, 1, 5]
    assert first.structs[0].clock == 4
    assert first.structs[2].origin == (2**53 - 1, 7)
    assert first.structs[3].right_origin == (2**53 - 1, 8)
    assert first.structs[4].parent == (5, 3)
    assert (second.structs[0].origin, second.structs[0].right_origin) == ((9, 1), (9, 2))
    assert parsed.deletes == [(9, 5, 6), (9, 0, 3), (4, 1, 2)]
    assert EVERYTHING[first.structs[1].content : first.structs[1].stop] == var_string("a😀é")


def test_every_truncation_is_refused(read_update: ReadUpdate) -> None:
    for length in range(len(EVERYTHING)):
        with pytest.raises(ProtocolViolation):
            read_update(EVERYTHING[:length])


def test_nesting_up_to_the_limit_is_taken(read_update: ReadUpdate) -> None:
    read_update(one(item(8, b"\x01" + b"\x75\x01" * 64 + NULL)))
    read_update(one(item(5, var_string("[" * 64 + "]" * 64))))
    read_update(one(item(5, var_string("[" + "[]," * 99 + "[]]"))))


def test_the_highest_clock_is_taken(read_update: ReadUpdate) -> None:
    assert read_update(one(text("a"), clock=2**32 - 2)).sections[0].structs[0].end == 2**32 - 1


def test_a_client_without_ranges_in_the_delete_set_is_taken_but_untidy(read_update: ReadUpdate) -> None:
    assert not read_update(b"\x00" + uints(1, 7, 0)).tidy


def test_random_and_mutated_bytes_are_read_or_refused(read_update: ReadUpdate) -> None:
    rng = random.Random(7)
    read = 0
    for _ in range(20_000):
        if rng.random() < 0.3:
            encoded = rng.randbytes(rng.randrange(1, 64))
        else:
            mutated = bytearray(EVERYTHING)
            for _ in range(rng.randrange(1, 4)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            encoded = bytes(mutated)
        try:
            read_update(encoded)
        except ProtocolViolation:
            continue
        read += 1
    assert read > 1000, "most mutations should still be well-formed, or nothing was tested"
