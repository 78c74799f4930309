import pickle

import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol import known as known_module
from constructure_sync.protocol import short_updates, update_reader
from constructure_sync.protocol.closed_part import Summary
from constructure_sync.protocol.known import Known, UpdateLimits
from constructure_sync.protocol.lib0 import var_string
from constructure_sync.protocol.state_vector import decode_state_vector
from constructure_sync.protocol.update_cut import EMPTY_UPDATE
from constructure_sync.protocol.update_reader import read_update
from tests.compiled import compiled
from tests.unit.protocol.golden import HISTORIES, NAMES, History
from tests.unit.protocol.updates import gc, item, section, skip, text, uints, update

MAP = uints(1)
TEXT = uints(2)


@pytest.fixture(autouse=True, params=["python", "compiled"])
def _readers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test with both kinds of readers."""
    is_compiled = request.param == "compiled"
    closer, reader = (compiled(), compiled()) if is_compiled else (short_updates, update_reader)
    monkeypatch.setattr(known_module, "close_short", closer.close_short)
    monkeypatch.setattr(known_module, "close_whole", compiled().close_whole if is_compiled else None)
    monkeypatch.setattr(known_module, "read_update", reader.read_update)


def knowing(*updates: bytes) -> Known:
    known = Known()
    for encoded in updates:
        part = known.close(encoded)
        assert not part.missing
        known.add(part)
    return known


ABC = update(section(1, 0, text("abc")))


def test_what_is_wholly_new_is_taken_as_the_same_object() -> None:
    part = Known().close(ABC)
    assert part.update is ABC
    assert part.ranges == ((1, 0, 3),)
    assert part.missing == ()
    assert part.adds_structs
    assert not part.adds_deletes


def test_what_is_wholly_known_adds_nothing() -> None:
    part = knowing(ABC).close(ABC)
    assert part.is_empty
    assert part.update == EMPTY_UPDATE
    assert part.missing == ()


def test_an_update_that_starts_too_late_waits_for_its_author() -> None:
    part = knowing(ABC).close(update(section(1, 5, text("f", origin=(1, 4)))))
    assert part.is_empty
    assert part.missing == ((1, 3),)


def test_a_section_is_taken_up_to_its_skip() -> None:
    encoded = update(section(1, 0, text("a"), skip(1), text("c", origin=(1, 1))))
    part = Known().close(encoded)
    assert part.update == update(section(1, 0, text("a")))
    assert part.missing == ((1, 1),)
    behind_it = knowing(update(section(1, 0, text("ab")))).close(encoded)
    assert behind_it.update == update(section(1, 2, text("c", origin=(1, 1))))
    assert behind_it.missing == ()


def test_a_skip_known_in_part_stops_the_section() -> None:
    part = knowing(ABC).close(update(section(1, 2, skip(5), text("x", origin=(1, 0)))))
    assert part.is_empty
    assert part.missing == ((1, 3),)


def test_a_skip_at_the_end_misses_nothing() -> None:
    part = Known().close(update(section(1, 0, text("a"), skip(4))))
    assert part.update == update(section(1, 0, text("a")))
    assert part.missing == ()


def test_a_struct_known_in_part_is_kept_whole() -> None:
    longer = update(section(1, 0, text("abc"), text("defg", origin=(1, 2)), text("h", origin=(1, 0))))
    known = knowing(ABC, update(section(1, 3, text("de", origin=(1, 2)))))
    part = known.close(longer)
    assert part.update == update(section(1, 3, text("defg", origin=(1, 2)), text("h", origin=(1, 0))))
    assert part.ranges == ((1, 3, 8),)
    known.add(part)
    assert known.clocks == {1: 8}


@pytest.mark.parametrize("reference", ["origin", "right", "parent"])
def test_a_reference_to_what_is_absent_stops_the_section(reference: str) -> None:
    waiting = text("x", **{reference: (2, 0)})
    part = Known().close(update(section(1, 0, text("a"), waiting, text("b", origin=(1, 0)))))
    assert part.update == update(section(1, 0, text("a")))
    assert part.missing == ((2, 0),)


def test_an_updates_own_structs_count_as_there() -> None:
    encoded = update(
        section(1, 0, text("a", origin=(2, 0)), text("b", origin=(3, 1))),
        section(2, 0, text("c"), text("d", origin=(1, 1))),
        section(3, 0, text("ef", right=(1, 0))),
    )
    part = Known().close(encoded)
    assert part.update is encoded
    assert part.missing == ()


def test_structs_that_wait_for_one_another_are_never_taken() -> None:
    part = Known().close(
        update(section(1, 0, text("a"), text("b", origin=(2, 0))), section(2, 0, text("c", origin=(1, 1))))
    )
    assert part.update == update(section(1, 0, text("a")))
    assert part.missing == ((1, 1), (2, 0))


def test_deletes_are_clipped_to_what_is_there_and_not_yet_deleted() -> None:
    known = knowing(ABC, update(deletes=((1, 1, 2),)))
    part = known.close(update(deletes=((1, 0, 9), (7, 0, 1))))
    assert part.update == update(deletes=((1, 0, 1), (1, 2, 3)))
    assert part.deletes == ((1, 0, 1), (1, 2, 3))
    assert part.missing == ((1, 3), (7, 0))


def test_delete_ranges_that_overlap_are_clipped_once() -> None:
    known = knowing(
        update(section(1, 0, text("x" * 100))), update(deletes=tuple((1, at, at + 1) for at in range(0, 100, 2)))
    )
    odd = tuple((1, at, at + 1) for at in range(1, 100, 2))
    for ranges in (((1, 0, 100),) * 50, ((1, 3, 9), (1, 0, 100), (1, 0, 200), (1, 50, 120))):
        part = known.close(update(deletes=ranges))
        assert part.update == update(deletes=odd)
        assert sorted(part.deletes) == list(odd)


def test_R12_an_implied_delete_is_taken_once_and_then_known() -> None:
    known = knowing(ABC)
    implied = update(deletes=((1, 1, 2),))
    known.add(known.close(implied))
    assert known.close(implied).is_empty


def test_deleted_structs_count_as_deletes() -> None:
    known = Known()
    encoded = update(section(1, 0, gc(2), item(1, uints(3)), text("x")))
    part = known.close(encoded)
    assert part.update is encoded
    assert part.deletes == ((1, 0, 5),)
    known.add(part)
    assert known.close(update(deletes=((1, 0, 5),))).is_empty


def test_a_delete_set_with_the_deleted_structs_it_names_is_not_cut() -> None:
    encoded = update(section(1, 0, gc(2), text("x")), deletes=((1, 0, 2),))
    assert Known().close(encoded).update is encoded


def test_a_client_without_delete_ranges_is_written_out() -> None:
    assert Known().close(b"\x01" + section(1, 0, text("a")) + uints(1, 9, 0)).update == update(section(1, 0, text("a")))
    assert Known().close(b"\x00" + uints(1, 9, 0)).is_empty


def nested(depth: int) -> bytes:
    """A map in a map in a map …, `depth` of them, the first in a root."""
    maps = [item(7, MAP, parent="t" if n == 0 else (1, n - 1), key="k") for n in range(depth)]
    return update(section(1, 0, *maps))


def test_shared_types_nest_up_to_the_limit() -> None:
    assert Known().close(nested(64)).ranges == ((1, 0, 64),)
    with pytest.raises(ProtocolViolation, match="nested too deep"):
        Known().close(nested(65))
    with pytest.raises(ProtocolViolation, match="nested too deep"):
        Known().close(nested(4), UpdateLimits(max_depth=3))


def test_nesting_is_remembered_across_updates_and_neighbours() -> None:
    known = knowing(nested(64))
    beside = update(section(2, 0, item(7, MAP, origin=(1, 63))))
    known.add(known.close(beside))
    with pytest.raises(ProtocolViolation, match="nested too deep"):
        known.close(update(section(3, 0, item(7, MAP, parent=(2, 0), key="k"))))
    with pytest.raises(ProtocolViolation, match="nested too deep"):
        known.close(update(section(3, 0, text("x", parent=(1, 63)))))
    with pytest.raises(ProtocolViolation, match="nested too deep"):
        known.close(update(section(3, 0, text("x", parent=(1, 63)), text("y"))))


def test_a_parent_that_is_no_type_is_refused() -> None:
    below_text = update(section(2, 0, text("x", parent=(1, 0))))
    with pytest.raises(ProtocolViolation, match="parent is not a shared type"):
        knowing(ABC).close(below_text)
    with pytest.raises(ProtocolViolation, match="parent is not a shared type"):
        Known().close(update(section(1, 0, text("abc")), section(2, 0, text("x", parent=(1, 0)))))


@pytest.mark.parametrize("gone", [gc(1), item(1, uints(1))], ids=["garbage", "deleted content"])
def test_a_parent_that_was_collected_is_taken(gone: bytes) -> None:
    known = knowing(update(section(1, 0, gone)))
    child = update(section(2, 0, item(7, TEXT, parent=(1, 0), key="k")))
    known.add(known.close(child))
    assert known.close(update(section(3, 0, text("late", parent=(2, 0))))).ranges == ((3, 0, 4),)


def test_what_hangs_beside_garbage_is_garbage() -> None:
    known = knowing(
        update(section(1, 0, gc(1), text("a"))),
        update(section(2, 0, item(7, MAP, origin=(1, 1), right=(1, 0)), text("b", origin=(1, 0)))),
    )
    below = known.close(update(section(3, 0, text("x", parent=(2, 0)))))
    assert below.ranges == ((3, 0, 1),)
    with pytest.raises(ProtocolViolation, match="not a shared type"):  # pycrdt refuses it in garbage, too
        known.close(update(section(3, 0, text("x", parent=(2, 1)))))


def test_origins_in_different_types_are_refused() -> None:
    known = knowing(update(section(1, 0, text("ab"), item(7, MAP), text("c", parent=(1, 2)))))
    for origin, right in (((1, 0), (1, 3)), ((1, 3), (1, 0))):
        with pytest.raises(ProtocolViolation, match="different types"):
            known.close(update(section(3, 0, text("x", origin=origin, right=right))))


def test_struct_that_is_known_in_part_may_not_move_to_another_type() -> None:
    known = knowing(update(section(1, 0, item(7, MAP), text("ab", parent=(1, 0)))))
    with pytest.raises(ProtocolViolation, match="differs from its known part"):
        known.close(update(section(1, 1, text("abc"))))
    assert known.close(update(section(1, 1, text("abc", parent=(1, 0))))).ranges == ((1, 1, 4),)


def test_a_part_closed_against_an_earlier_state_can_be_added() -> None:
    known = knowing(ABC)
    ahead = update(section(1, 3, text("def", origin=(1, 2)), item(7, MAP, origin=(1, 5))))
    part = known.copy().close(ahead)
    known.add(known.close(update(section(1, 3, text("d", origin=(1, 2))))))
    known.add(part)
    assert known == knowing(ABC, ahead)


def test_R15_two_contents_under_one_id_leave_the_first_that_was_taken() -> None:
    known = knowing(ABC)
    part = known.copy().close(update(section(1, 3, text("de", origin=(1, 2)), item(7, MAP, origin=(1, 4)))))
    known.add(known.close(update(section(1, 3, item(7, MAP)))))
    known.add(part)
    assert known.clocks == {1: 6}
    assert known.close(update(section(2, 0, text("x", parent=(1, 3))))).adds_structs
    with pytest.raises(ProtocolViolation, match="parent is not a shared type"):
        known.close(update(section(2, 0, text("x", parent=(1, 4)))))


def test_closing_changes_nothing_and_copies_are_independent() -> None:
    known = knowing(ABC)
    twin = known.copy()
    part = known.close(update(section(1, 3, item(7, MAP)), section(2, 0, text("x")), deletes=((1, 0, 1),)))
    assert known == twin
    known.add(part)
    assert twin == knowing(ABC)
    assert known != twin


def test_it_pickles_compactly() -> None:
    known = Known()
    for history in HISTORIES:
        known.add(known.close(history.state))
    pickled = pickle.dumps(known)
    assert pickle.loads(pickled) == known
    assert len(pickled) < sum(len(history.state) for history in HISTORIES)


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_a_stock_history_is_taken_whole(history: History) -> None:
    known = Known()
    for encoded in history.updates:
        part = known.close(encoded)
        assert part.missing == ()
        assert part == known.close_fully(encoded)
        parsed = read_update(encoded)
        assert [client for client, _, _ in part.ranges] == [section.client for section in parsed.sections]
        if all(known.deletes.disjoint(*deleted) for deleted in parsed.deletes):  # Two may delete the same.
            assert part.update is encoded
        known.add(part)
    assert known.clocks == decode_state_vector(history.vector)
    for state in [*history.states, history.state, history.merged]:
        part = known.close(state)
        assert not part.ranges
        assert not part.missing
        known.add(part)
        assert known.close(state).is_empty


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_a_stock_document_is_taken_as_it_is(history: History) -> None:
    for state in [history.state, history.merged]:
        part = Known().close(state)
        assert part.update is state


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_a_summary_stands_for_the_updates(history: History) -> None:
    known = Known()
    parts = []
    for encoded in history.updates:
        parts.append(known.close(encoded))
        known.add(parts[-1])
    halves = [Summary.merge(parts[:40]), Summary.merge(parts[40:])]
    opened = Known()
    for summary in halves:
        assert Summary.decode(summary.encode()) == summary
        opened.add_summary(Summary.decode(summary.encode()))
    assert opened == known
    assert Summary.merge(halves) == Summary.merge(map(Summary.of, parts))


def test_a_summary_of_version_1_is_read() -> None:
    ranges, deletes, runs = b"\x01\x07\x00\x05", b"\x00", b"\x02\x07\x00\x02\x03\x07\x02\x03\x04"
    summary = Summary.decode(b"\x01" + ranges + deletes + runs)
    assert summary.ranges == ((7, 0, 5),)
    assert list(summary.depths) == [(7, 0, 2, 3), (7, 2, 5, 4)]
    assert Summary.decode(summary.encode()) == summary


def test_summaries_that_overlap_are_known_once() -> None:
    parts = [Known().close(update(section(1, 0, text("abc", parent="t")))), Known().close(ABC)]
    opened = Known()
    for part in parts:
        opened.add_summary(Summary.of(part))
    assert opened.clocks == {1: 3}


def test_a_damaged_summary_is_refused() -> None:
    encoded = Summary.of(Known().close(ABC)).encode()
    half_a_run = encoded[:-9] + b"\x04" + encoded[-4:]
    for damaged in [b"", b"\x03" + encoded[1:], encoded[:-1], encoded + b"\x00", half_a_run, encoded[:-9] + b"\x00"]:
        with pytest.raises(ProtocolViolation):
            Summary.decode(damaged)


def test_short_updates_take_the_fast_way() -> None:
    known = knowing(ABC, update(section(1, 3, item(7, MAP, key="m"))))
    shapes = [
        update(section(1, 4, text("x", origin=(1, 0), right=(1, 1)))),
        update(section(2, 0, item(8, uints(1) + b"\x7e", parent=(1, 3), key="k"))),
        update(section(2, 0, item(8, uints(1) + b"\x77" + var_string("v"), origin=(1, 2))), deletes=((1, 2, 3),)),
        update(deletes=((1, 0, 1), (1, 2, 3))),
    ]
    for shape in shapes:
        assert known.close(shape) == known.close_fully(shape)
        assert known.close(shape).update is shape
