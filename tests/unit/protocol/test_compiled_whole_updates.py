"""The compiled way to close whole updates beside the general way, which says what is right."""

import gc
import sys
from array import array
from collections.abc import Callable

import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.id_ranges import MAX_CLOCK, IdRanges
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import var_bytes, var_string
from constructure_sync.protocol.update_cut import EMPTY_UPDATE, delete_set_update
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, STORED_LIMITS, UpdateLimits
from tests.compiled import compiled
from tests.faults.native_mutations import after_a_pause, compare_whole, play_forged
from tests.faults.native_reading import Outcome
from tests.unit.protocol import updates
from tests.unit.protocol.golden import HISTORIES, NAMES, History
from tests.unit.protocol.updates import item, section, skip, text, uints, update

CLIENT = 3_000_000_000
MAP = uints(1)
NULL = uints(1) + b"\x7e"


@pytest.fixture(scope="module")
def known() -> Known:
    """Text at the root (clocks 0 to 9), a map below it (10), a value in that (11), garbage (12), and another client's text."""
    known = Known()
    for encoded in (
        update(section(CLIENT, 0, text("0123456789"), item(7, MAP, parent="root", key="map"))),
        update(section(CLIENT, 11, item(8, NULL, parent=(CLIENT, 10), key="k"), updates.gc(1))),
        update(section(2, 0, text("other")), deletes=((CLIENT, 11, 12), (CLIENT, 3, 5))),
    ):
        known.add(known.close_fully(encoded))
    return known


def taken(known: Known, encoded: bytes, limits: UpdateLimits = DEFAULT_LIMITS) -> bool:
    """Require the same of both ways; return whether the compiled one gave a part."""
    outcome = Outcome()
    given = compare_whole(compiled(), known, encoded, limits, outcome)
    assert outcome.failures == []
    return given


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_all_that_stock_clients_send_is_taken(history: History) -> None:
    known = Known()
    for place, encoded in enumerate(history.updates):
        assert taken(known, encoded)
        assert taken(known, after_a_pause(known, history.updates[place : place + 1]))
        taken(known, after_a_pause(known, history.updates[place : place + 20]))
        known.add(known.close_fully(encoded))
        assert taken(known, delete_set_update(known.deletes))


NEXT = (CLIENT, 9)
NEW_NODE = (
    item(7, MAP, parent=(CLIENT, 10), key="node"),
    *(item(8, NULL, parent=(CLIENT, 13), key=key) for key in "abc"),
    item(7, uints(2), parent=(CLIENT, 13), key="title"),
    text("é😀", parent=(CLIENT, 17)),
    item(7, uints(3) + var_string("p"), parent=(CLIENT, 13), key="body"),
    item(7, uints(6), parent=(CLIENT, 21)),
    text("deep", parent=(CLIENT, 22)),
)
SHAPES: dict[str, bytes] = {
    "two keys set": update(
        section(CLIENT, 13, item(8, NULL, origin=(CLIENT, 11)), item(8, NULL, origin=(CLIENT, 13))),
        deletes=((CLIENT, 13, 14), (2, 0, 1)),
    ),
    "a new node": update(section(CLIENT, 13, *NEW_NODE)),
    "formats": update(
        section(
            CLIENT,
            13,
            item(6, var_string("bold") + var_string("true"), origin=NEXT),
            item(6, var_string("link") + var_string('{"href": "\\u00e9", "n": [1, 2.5]}'), origin=(CLIENT, 13)),
            item(5, var_string('{"image":"x"}'), right=NEXT),
            item(5, var_string('"plain"'), right=NEXT),
            text("x", origin=(CLIENT, 14)),
        )
    ),
    "everything else": update(
        section(
            CLIENT,
            13,
            item(1, uints(3), origin=NEXT),
            item(3, var_bytes(b"\x00\xff")),
            item(9, var_string("guid") + b"\x76\x00"),
            item(8, uints(2) + b"\x7e\x77\x01a", origin=(CLIENT, 15), right=(CLIENT, 0)),
            updates.gc(4),
        ),
        deletes=((CLIENT, 0, 1), (CLIENT, 17, 18)),
    ),
    "below what is gone": update(
        section(
            CLIENT,
            13,
            text("x", origin=(CLIENT, 12)),
            item(7, MAP, parent=(CLIENT, 12), key="k"),
            text("y", parent=(CLIENT, 14)),
            text("z", origin=NEXT, right=(CLIENT, 12)),
            text("z", origin=(CLIENT, 12), right=NEXT),
        )
    ),
    "two clients": update(
        section(CLIENT, 13, item(7, MAP, parent="t"), text("x")),
        section(2, 5, item(8, NULL, parent=(CLIENT, 13), key="k"), text("y", origin=(CLIENT, 14))),
        section(7, 0, text("z", origin=(2, 4), right=(2, 3))),
        deletes=((CLIENT, 13, 14), (7, 0, 1), (2, 0, 6)),
    ),
    "what is deleted in part": update(
        section(2, 5, text("x", origin=(2, 4)), text("y", origin=(2, 0))),
        deletes=((CLIENT, 0, 9), (CLIENT, 10, 12), (2, 0, 7)),
    ),
    "what is deleted already": update(deletes=((CLIENT, 3, 4), (CLIENT, 4, 5), (CLIENT, 11, 12))),
    "a delete set as yrs writes it, in any order": update(deletes=((2, 0, 2), (CLIENT, 0, 3))),
    "a delete set of a client without ranges": b"\x00\x02" + uints(CLIENT, 1, 0, 2) + uints(2, 0),
    "nothing": EMPTY_UPDATE,
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_taken(known: Known, name: str) -> None:
    assert taken(known, SHAPES[name])
    assert taken(known, SHAPES[name], STORED_LIMITS)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_cut_anywhere_or_with_another_byte_is_judged_alike(known: Known, name: str) -> None:
    whole = SHAPES[name]
    assert not any(taken(known, whole[:end]) for end in range(len(whole)))
    assert not taken(known, whole + b"\x00")
    for place in range(len(whole)):
        for value in range(256):
            taken(known, whole[:place] + bytes((value,)) + whole[place + 1 :])


def test_what_waits_or_is_known_or_refers_to_what_comes_later_is_left_to_the_general_way(known: Known) -> None:
    for encoded in (
        update(section(CLIENT, 12, text("xy"))),
        update(section(CLIENT, 14, text("x"))),
        update(section(CLIENT, 13, text("x"), skip(2), text("y"))),
        update(section(CLIENT, 13, text("x", origin=(CLIENT, 13)))),
        update(section(CLIENT, 13, text("x", origin=(2, 5))), section(2, 5, text("y"))),
        update(section(CLIENT, 13, text("x", parent=(CLIENT, 9)))),
        update(section(CLIENT, 13, text("x")), section(CLIENT, 13, text("y"))),
        update(section(CLIENT, 13, text("x")), section(CLIENT, 14, text("y"))),
        update(section(CLIENT, 13, text("x")), deletes=((CLIENT, 13, 15),)),
        update(section(CLIENT, 13, text("x")), deletes=((9, 0, 1),)),
        update(deletes=((2, 1, 2), (2, 0, 1))),
        update(deletes=((2, 0, 2), (2, 1, 3))),
        b"\x00\x03" + uints(2, 1, 0, 1) + uints(CLIENT, 1, 0, 1) + uints(2, 1, 1, 1),
        b"\x00\x02\x02\x01\x00\x01\x02\x01\x01\x01",
        update(section(CLIENT, 13, text("x", origin=NEXT, right=(CLIENT, 11)))),
    ):
        assert not taken(known, encoded)


def test_json_is_judged_as_the_general_way_does(known: Known) -> None:
    for judged in ("", "nul", '{"a":', "NaN", '"\\ud800"', "[" * 65 + "]" * 65, '"\x01"', '"a"b"', "1e999", " null"):
        encoded = update(section(CLIENT, 13, item(6, var_string("b") + var_string(judged)), item(5, var_string("{}"))))
        taken(known, encoded)
        if judged != " null":
            with pytest.raises(ProtocolViolation):
                compiled().close_whole(encoded, known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS)


@pytest.mark.parametrize("most", range(9))
def test_limits_are_held_at_the_same_count(known: Known, most: int) -> None:
    documents = [item(9, var_string("g") + b"\x76\x00") for _ in range(3)]
    encoded = update(
        section(CLIENT, 13, *documents, item(8, uints(1) + b"\x75\x01\x75\x01\x7e")),
        section(2, 5, item(7, MAP, parent=(CLIENT, 10), key="k"), text("x", parent=(2, 5))),
        deletes=((CLIENT, 0, 1), (CLIENT, 3, 4), (2, 0, 1)),
    )
    assert taken(known, encoded, UpdateLimits(max_structs=most)) == (most >= 6)
    assert taken(known, encoded, UpdateLimits(max_clients=most)) == (most >= 2)
    assert taken(known, encoded, UpdateLimits(max_delete_ranges=most)) == (most >= 3)
    assert taken(known, encoded, UpdateLimits(max_subdocs=most)) == (most >= 3)
    assert taken(known, encoded, UpdateLimits(max_depth=most)) == (most >= 3)
    assert taken(known, encoded, UpdateLimits(max_any_depth=most)) == (most >= 2)


def test_types_nest_as_deep_as_sixteen_bits_say() -> None:
    known, deep = Known(), UpdateLimits(max_depth=2**16)
    known.clocks[5], known.nesting[5] = 2, array("Q", (0x7FFE << 1 | 1, 1 << 16 | 0xFFFF))
    assert taken(known, update(section(2, 0, item(7, MAP, parent=(5, 0)), text("x"))), deep)
    assert not taken(known, update(section(2, 0, item(7, MAP, parent=(5, 1)), text("x"))), deep)


def test_clocks_end_at_32_bits() -> None:
    known = Known()
    known.clocks[5], known.nesting[5] = MAX_CLOCK - 3, array("Q", (2,))
    assert taken(known, update(section(5, MAX_CLOCK - 3, text("a"), text("bc"))))
    assert not taken(known, update(section(5, MAX_CLOCK - 3, text("a"), text("bcd"))))
    known.deletes.add(6, 0, MAX_CLOCK + 9)
    assert taken(known, update(deletes=((6, 5, MAX_CLOCK),)))
    assert not taken(known, update(deletes=((6, 5, MAX_CLOCK + 1),)))


def test_so_many_clients_are_referred_to() -> None:
    known = Known()
    for client in range(40):
        known.add(known.close_fully(update(section(client, 0, text("x")))))
    for number in (31, 32, 33, 40):
        structs = [text("y", origin=(client, 0)) for client in range(number - 1)]
        assert taken(known, update(section(50, 0, *structs))) == (number <= 32)
        sections = [section(100 + client, 0, text("y"), text("z")) for client in range(number)]
        assert taken(known, update(*sections)) == (number <= 32)
    assert taken(known, update(*sections[:32], deletes=tuple((client, 0, 1) for client in range(39, -1, -1))))


def test_long_sections_have_runs_that_are_found_again() -> None:
    known = Known()
    structs = [item(7, MAP, parent="t") if place % 3 else text("x", parent="t") for place in range(200)]
    structs += [text("y", parent=(5, place)) for place in range(200) if place % 3]
    structs += [text("z", origin=(5, place)) for place in range(330)]
    assert taken(known, update(section(5, 0, *structs), deletes=tuple((5, at, at + 1) for at in range(0, 600, 2))))


def test_forged_updates_close_alike() -> None:
    outcome = play_forged(compiled(), seed=3, count=6_000)
    assert outcome.failures == []
    assert outcome.counts["taken whole"] > 300


def test_what_is_no_update_or_no_knowledge_is_a_type_error(known: Known) -> None:
    native = compiled().close_whole
    encoded = SHAPES["two clients"]
    whole = (encoded, known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS)
    assert native(*whole) is not None
    for place in range(4):
        wrong = [*whole[:place], None, *whole[place + 1 :]]
        with pytest.raises((TypeError, AttributeError)):
            native(*wrong)  # type: ignore[arg-type]
    assert native(*whole[:4], None) is None  # type: ignore[arg-type]
    for narrow in (array("I", (2,)), [2], memoryview(bytes(17))[1:9]):
        with pytest.raises(TypeError):
            native(encoded, known.clocks, {**known.nesting, 2: narrow}, known.deletes, DEFAULT_LIMITS)  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        native(encoded, {**known.clocks, 2: "5"}, known.nesting, known.deletes, DEFAULT_LIMITS)  # type: ignore[dict-item]
    assert native(encoded, known.clocks, {2: array("Q")}, known.deletes, DEFAULT_LIMITS) is None
    strange = IdRanges()
    strange._bounds = {CLIENT: array("Q", (1,)), 2: array("Q", (9, 3, 1))}
    native(encoded, known.clocks, known.nesting, strange, DEFAULT_LIMITS)
    strange._bounds = {CLIENT: [0, 1]}  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        native(encoded, known.clocks, known.nesting, strange, DEFAULT_LIMITS)


def test_it_holds_on_to_nothing(known: Known) -> None:
    native = compiled().close_whole
    waiting = [encoded[:-1] for encoded in SHAPES.values()]
    refused = update(section(CLIENT, 13, item(5, var_string("[1")), item(5, var_string("[1]"))))
    strange = IdRanges()
    strange._bounds = {CLIENT: [0, 1]}  # type: ignore[dict-item]
    inputs: list[object] = [*SHAPES.values(), known.clocks, known.nesting, known.deletes._bounds, known.deletes]
    inputs += [*known.nesting.values(), *known.deletes._bounds.values(), DEFAULT_LIMITS]

    def attempt(error: type[Exception], call: Callable[[], object]) -> None:
        with pytest.raises(error):
            call()

    def use() -> None:
        for encoded in (*SHAPES.values(), *waiting):
            native(encoded, known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS)
        attempt(ProtocolViolation, lambda: native(refused, known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS))
        two = SHAPES["two keys set"]
        attempt(TypeError, lambda: native(two, known.clocks, known.nesting, strange, DEFAULT_LIMITS))

    def held(rounds: int) -> tuple[int, list[int]]:
        for _ in range(rounds):
            use()
        gc.collect()
        return sys.getallocatedblocks(), list(map(sys.getrefcount, inputs))

    held(50)
    blocks, references = held(1)
    blocks_later, references_later = held(300)
    assert references_later == references
    assert blocks_later - blocks < 100
    known.clocks[77] = 1
    del known.clocks[77]
    known.nesting[CLIENT].append(0)  # nothing holds its memory any longer
    known.nesting[CLIENT].pop()
