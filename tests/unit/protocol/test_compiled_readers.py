"""The compiled readers beside the same in Python, and what happens where nothing can be compiled."""

import gc
import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constructure_sync.protocol.id_ranges import MAX_CLOCK, IdRanges
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import var_bytes, var_string
from constructure_sync.protocol.short_updates import close_short
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, UpdateLimits
from hatch_build import NotCompiled, compile_readers
from tests.compiled import REPOSITORY, compiled
from tests.faults.native_mutations import compare, is_same, play
from tests.faults.native_reading import Outcome
from tests.unit.protocol.golden import HISTORIES, NAMES, History
from tests.unit.protocol.updates import item, section, text, uints, update

CLIENT = 3_000_000_000
LARGEST = 2**53 - 1


@pytest.fixture(scope="module")
def known() -> Known:
    """Some text at the root (clocks 0 to 9), a map below it (10), of which a value was deleted (11), and another client."""
    known = Known()
    for encoded in (
        update(section(CLIENT, 0, text("0123456789"))),
        update(section(CLIENT, 10, item(7, uints(1), parent="root", key="map"))),
        update(section(CLIENT, 11, item(8, uints(1) + b"\x7e", parent=(CLIENT, 10), key="k"))),
        update(section(2, 0, text("other")), deletes=((CLIENT, 11, 12), (CLIENT, 3, 5))),
    ):
        known.add(known.close_fully(encoded))
    return known


def both(known: Known, encoded: bytes, limits: UpdateLimits = DEFAULT_LIMITS) -> bool:
    """Require the same of both readers, and of the general way; return whether it was taken."""
    outcome = Outcome()
    compare(compiled(), known, encoded, limits, outcome)
    assert outcome.failures == []
    return outcome.counts["taken"] == 1


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_an_editing_history_is_read_alike(history: History) -> None:
    known = Known()
    taken = 0
    for encoded in history.updates:
        taken += both(known, encoded)
        known.add(known.close_fully(encoded))
        assert not both(known, encoded) or not known.close_fully(encoded).ranges
    assert taken > len(history.updates) // 3


def test_every_shape_is_taken(known: Known) -> None:
    last = (CLIENT, 9)
    for shape in (
        text("x", origin=last),
        text("é😀", right=last),
        text("x", origin=(CLIENT, 8), right=last),
        text("x", parent="root"),
        item(8, uints(2) + b"\x7e" + b"\x77" + var_string("v"), parent=(CLIENT, 10), key="k"),
        item(7, uints(3) + var_string("div"), origin=(CLIENT, 11)),
    ):
        assert both(known, update(section(CLIENT, 12, shape)))
        assert both(
            known, update(section(CLIENT, 12, shape), deletes=((CLIENT, 0, 1), (CLIENT, 5, 11), (CLIENT, 12, 13)))
        )
        assert both(known, update(section(7, 0, shape), deletes=((2, 0, 1),)))
        assert not both(known, update(section(CLIENT, 13, shape)))
    assert both(known, update(deletes=((2, 0, 5),)))
    assert not both(known, update(deletes=((2, 0, 6),)))
    assert not both(known, update(deletes=((CLIENT, 4, 6),)))


def test_an_update_cut_anywhere_is_left_to_the_general_way(known: Known) -> None:
    whole = update(
        section(
            CLIENT, 12, item(8, uints(1) + b"\x76\x01" + var_string("é") + b"\x7b" + bytes(8), origin=(CLIENT, 11))
        ),
        deletes=((CLIENT, 0, 2), (CLIENT, 5, 6)),
    )
    assert both(known, whole)
    for end in range(len(whole)):
        assert not both(known, whole[:end])
    assert not both(known, whole + b"\x00")


@pytest.mark.parametrize(
    "number", [0, 1, 127, 128, MAX_CLOCK, MAX_CLOCK + 1, 1 << 47, LARGEST, 1 << 53, (1 << 54) - 1, 1 << 54]
)
@pytest.mark.parametrize("size", range(1, 12))
def test_numbers_of_every_length_are_read_alike(known: Known, number: int, size: int) -> None:
    padded = [number >> 7 * place & 0x7F | 0x80 for place in range(size)]
    padded[-1] &= 0x7F
    written = bytes(padded)
    known = known.copy()
    known.clocks[number] = 0
    both(known, b"\x01\x01" + written + text("x", origin=(2, 0)) + b"\x00")
    both(known, b"\x01\x01" + written + b"\x00" + text("x", origin=(2, 0)) + b"\x00")
    both(known, b"\x01\x01\x02" + written + text("x", origin=(2, 0)) + b"\x00")
    both(known, b"\x01\x01\x02\x05\x84" + written + b"\x00" + var_string("x") + b"\x00")
    both(known, b"\x01\x01\x02\x05\x84\x02" + written + var_string("x") + b"\x00")
    both(known, b"\x01\x01\x02\x05\x84\x02\x00" + written + b"x\x00")
    both(known, b"\x01\x01\x02\x05\x88\x02\x00" + written + b"\x7e\x00")
    both(known, b"\x01\x01\x02\x05\x87\x02\x00" + written + b"\x00")
    for tag in (b"\x74", b"\x75", b"\x76", b"\x77", b"\x7d"):
        both(known, b"\x01\x01\x02\x05\x88\x02\x00\x01" + tag + written + b"\x00")
    both(known, b"\x00\x01" + written + b"\x01\x00\x01")
    both(known, b"\x00\x01\x02\x01" + written + b"\x01")
    both(known, b"\x00\x01\x02\x01\x00" + written)


def test_a_number_of_ten_bytes_has_no_bit_beyond_the_sixty_third(known: Known) -> None:
    for last in (0x01, 0x02, 0x7E, 0x7F):
        assert not both(known, b"\x00\x01\x02\x01\x00" + b"\x81" + b"\x80" * 8 + bytes((last,)))
    assert both(known, b"\x00\x01\x02\x01\x00" + b"\x81" + b"\x80" * 8 + b"\x00")


def test_every_info_byte_is_read_alike(known: Known) -> None:
    for info in range(256):
        for head in (b"\x02\x00", b"\x02\x00\x02\x01", b"\x00\x02\x00", b"\x01" + var_string("t")):
            for content in (var_string("x"), b"\x01", b"\x01\x7e", b"\x01k" + var_string("x"), b"\x01kv" + b"\x01\x7e"):
                both(known, b"\x01\x01\x02\x05" + bytes((info,)) + head + content + b"\x00")


@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_text_is_counted_alike_and_only_when_it_is_utf_8(encoded: bytes) -> None:
    known = Known()
    known.add(known.close_fully(update(section(2, 0, text("a")))))
    both(known, b"\x01\x01\x02\x01\x84\x02\x00" + var_bytes(encoded) + b"\x00")


def test_every_sequence_of_two_bytes_and_every_edge_of_utf_8_is_judged_alike(known: Known) -> None:
    pairs = [bytes((first, second)) for first in range(0x80, 0x100) for second in range(0x100)]
    edges = [
        bytes((a, b, c)) for a in (0xE0, 0xE1, 0xED, 0xEF) for b in range(0x78, 0xC8) for c in (0x7F, 0x80, 0xBF, 0xC0)
    ]
    high = [
        bytes((a, b, c, d))
        for a in (0xF0, 0xF1, 0xF4, 0xF5)
        for b in range(0x78, 0xC8)
        for c in (0x7F, 0x80, 0xBF, 0xC0)
        for d in (0x7F, 0x80, 0xBF, 0xC0)
    ]
    taken = 0
    for encoded in (*pairs, *edges, *high):
        written = b"\x01\x01\x02\x05\x84\x02\x00" + var_bytes(b"sevenup" + encoded) + b"\x00"
        python = close_short(written, known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS)
        native = compiled().close_short(written, known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS)
        assert is_same(native, python), encoded
        taken += python is not None
    assert taken == 30 * 64 + (32 + 64 + 32 + 64) * 2 + (48 + 64 + 16) * 4


def test_plain_values_nest_as_deep_as_the_limit_says(known: Known) -> None:
    def nested(depth: int) -> bytes:
        return update(section(2, 5, item(8, uints(1) + b"\x75\x01" * depth + b"\x7e", origin=(2, 0))))

    assert both(known, nested(64))
    assert not both(known, nested(65))
    assert both(known, nested(3), UpdateLimits(max_any_depth=3))
    assert not both(known, nested(4), UpdateLimits(max_any_depth=3))


def test_types_nest_as_deep_as_the_limit_says(known: Known) -> None:
    below = item(7, uints(1), parent=(CLIENT, 10), key="k")
    for depth, shape in ((1, text("x", origin=(2, 0))), (1, text("x")), (2, below)):
        encoded = update(section(2, 5, shape))
        assert both(known, encoded, UpdateLimits(max_depth=depth))
        assert not both(known, encoded, UpdateLimits(max_depth=depth - 1))


def test_clocks_end_at_32_bits() -> None:
    known = Known()
    known.clocks[5], known.nesting[5] = MAX_CLOCK - 2, array("Q", (2,))
    assert both(known, update(section(5, MAX_CLOCK - 2, text("ab", origin=(5, MAX_CLOCK - 3)))))
    assert not both(known, update(section(5, MAX_CLOCK - 2, text("abc", origin=(5, MAX_CLOCK - 3)))))


def test_mutated_updates_are_read_alike() -> None:
    outcome = play(compiled(), [history.updates for history in HISTORIES], seed=5, count=40_000)
    assert outcome.failures == []
    assert outcome.counts["taken"] > 500
    assert outcome.counts["taken whole"] > 1_500


def test_it_holds_on_to_nothing(known: Known) -> None:
    native = compiled().close_short
    shapes = [
        update(section(CLIENT, 12, text("x" * 40, origin=(CLIENT, 9))), deletes=((CLIENT, 0, 2), (CLIENT, 5, 6))),
        update(section(CLIENT, 12, text("x", origin=(CLIENT, 12)))),
        update(section(CLIENT, 12, item(7, uints(1), parent=(CLIENT, 10), key="k")), deletes=((CLIENT, 4, 5),)),
        update(deletes=((CLIENT, 0, 1),)),
        update(section(CLIENT, 12, item(8, uints(1) + b"\x05", parent="root", key="k"))),
    ]
    dictionaries = (known.clocks, known.nesting, known.deletes._bounds)
    inputs: list[object] = [*shapes, *dictionaries, known.deletes, DEFAULT_LIMITS]
    inputs += [*known.nesting.values(), *known.deletes._bounds.values()]
    strange = IdRanges()
    strange._bounds = {CLIENT: [0, 1]}  # type: ignore[dict-item]

    def use() -> None:
        for shape in shapes:
            native(shape, known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS)
            with pytest.raises(AttributeError):
                native(shape, known.clocks, known.nesting, strange, None)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            native(shapes[3], known.clocks, known.nesting, strange, DEFAULT_LIMITS)

    def held(rounds: int) -> tuple[int, list[int]]:
        for _ in range(rounds):
            use()
        gc.collect()
        return sys.getallocatedblocks(), list(map(sys.getrefcount, inputs))

    held(50)
    blocks, references = held(1)
    blocks_later, references_later = held(500)
    assert references_later == references
    assert blocks_later - blocks < 100


def test_what_is_no_update_or_no_knowledge_is_a_type_error(known: Known) -> None:
    native = compiled().close_short
    encoded = update(section(2, 5, text("x", origin=(2, 0))), deletes=((2, 0, 1),))
    whole = (encoded, known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS)
    assert native(*whole) is not None
    for place in range(5):
        wrong = [*whole[:place], None, *whole[place + 1 :]]
        with pytest.raises((TypeError, AttributeError)):
            native(*wrong)  # type: ignore[arg-type]
    for narrow in (array("I", (2,)), [2], memoryview(bytes(17))[1:9]):
        with pytest.raises(TypeError):
            native(encoded, known.clocks, {2: narrow}, known.deletes, DEFAULT_LIMITS)  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        native(encoded, {2: "5"}, known.nesting, known.deletes, DEFAULT_LIMITS)  # type: ignore[dict-item]
    with pytest.raises(OverflowError):
        native(encoded, {2: -1}, known.nesting, known.deletes, DEFAULT_LIMITS)
    assert native(encoded, known.clocks, {2: array("Q")}, known.deletes, DEFAULT_LIMITS) is None
    assert native(encoded, known.clocks, {}, known.deletes, DEFAULT_LIMITS) is None


def test_python_is_used_when_it_is_asked_for() -> None:
    command = [
        sys.executable,
        "-c",
        "from constructure_sync.protocol.readers import IMPLEMENTATION as used; print(used)",
    ]
    environment = os.environ | {"CONSTRUCTURE_PURE_PYTHON": "1"}
    assert subprocess.check_output(command, env=environment, text=True, timeout=60) == "python\n"


def test_python_is_used_instead_of_a_module_that_earlier_sources_left() -> None:
    words = (
        "import sys, types, constructure_sync.protocol as p;"
        "p._native = sys.modules[p.__name__ + '._native'] = types.ModuleType('_native');"
        "p._native.close_short = None;"
        "from constructure_sync.protocol.readers import IMPLEMENTATION as used; print(used)"
    )
    assert subprocess.check_output([sys.executable, "-c", words], text=True, timeout=60) == "python\n"


def test_without_a_compiler_the_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "_native.so"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotCompiled, match="there is no C compiler"):
        compile_readers(REPOSITORY, target)
    (tmp_path / "cc").write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    with pytest.raises(NotCompiled, match="cc failed:\nout of order"):
        compile_readers(REPOSITORY, target)
    assert list(tmp_path.iterdir()) == [tmp_path / "cc"]
