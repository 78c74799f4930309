import pytest

from constructure_sync.protocol.id_ranges import IdRanges
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import var_string
from constructure_sync.protocol.update_reader import DELETED, read_update
from constructure_sync.protocol.update_writer import (
    EMPTY_UPDATE,
    collect_garbage,
    delete_set_update,
    join_summarized,
    join_updates,
    split_update,
)
from tests.unit.protocol.golden import HISTORIES, NAMES, History
from tests.unit.protocol.updates import gc, item, section, text, uints, update
from tests.unit.protocol.views import shown

WITHOUT_EMOJI = [history for history in HISTORIES if not history.emoji]
WITHOUT_EMOJI_NAMES = [history.name for history in WITHOUT_EMOJI]
ONE = b"\x7d\x01"
TWO = b"\x7d\x02"


def closed(history: History) -> list[bytes]:
    """The history as a room takes it."""
    known = Known()
    taken = []
    for encoded in history.updates + history.states:
        part = known.close(encoded)
        known.add(part)
        if not part.is_empty:
            taken.append(part.update)
    return taken


def known_of(updates: list[bytes]) -> Known:
    known = Known()
    for encoded in updates:
        part = known.close(encoded)
        assert not part.missing
        known.add(part)
    return known


def test_nothing_joins_to_nothing() -> None:
    assert join_updates([]) == []
    assert join_updates([EMPTY_UPDATE, EMPTY_UPDATE]) == []


def test_a_typed_run_becomes_one_struct() -> None:
    typed = [update(section(1, 0, text("a")))]
    typed += [update(section(1, n, text(character, origin=(1, n - 1)))) for n, character in enumerate("bécd", 1)]
    assert join_updates(typed) == [update(section(1, 0, text("abécd")))]


def test_typing_before_the_same_neighbour_becomes_one_struct() -> None:
    joined = join_updates(
        [
            update(section(1, 0, text("x")), section(2, 0, text("a", right=(1, 0)))),
            update(section(2, 1, text("b", origin=(2, 0), right=(1, 0)))),
            update(section(2, 2, text("c", origin=(2, 1)))),
        ]
    )
    assert joined == [
        update(section(2, 0, text("ab", right=(1, 0)), text("c", origin=(2, 1))), section(1, 0, text("x")))
    ]


def test_values_garbage_and_deleted_content_are_squashed_with_their_like_only() -> None:
    structs = [
        gc(2),
        gc(3),
        item(8, uints(1) + ONE),
        item(8, uints(2) + TWO + ONE, origin=(1, 5)),
        item(1, uints(2), origin=(1, 7)),
        item(1, uints(1), origin=(1, 9)),
        text("a", origin=(1, 10)),
        text("b", origin=(1, 3)),
        item(7, uints(1), origin=(1, 12)),
        item(7, uints(1), origin=(1, 13)),
    ]
    squashed = [
        gc(5),
        item(8, uints(3) + ONE + TWO + ONE),
        item(1, uints(3), origin=(1, 7)),
        *structs[6:],
    ]
    assert join_updates([update(section(1, 0, *structs))]) == [update(section(1, 0, *squashed))]


def test_values_of_one_key_stay_apart_until_they_are_deleted() -> None:
    first = item(8, uints(1) + ONE, key="k")
    second = bytes((item(8, b"", origin=(1, 0))[0] | 0x20,)) + item(8, uints(1) + TWO, origin=(1, 0))[1:]
    values = update(section(1, 0, first, second), deletes=((1, 0, 1),))
    assert join_updates([values]) == [values]
    assert collect_garbage(values, IdRanges([(1, 0, 2)])) == update(
        section(1, 0, item(1, uints(2), key="k")), deletes=((1, 0, 1),)
    )


def test_deletes_are_merged_and_sorted() -> None:
    joined = join_updates([update(deletes=((1, 5, 6), (1, 0, 2))), update(deletes=((1, 2, 3), (9, 0, 1)))])
    assert joined == [update(deletes=((9, 0, 1), (1, 0, 3), (1, 5, 6)))]


def test_known_structs_are_left_out_and_one_known_in_part_begins_another_update() -> None:
    one = update(section(1, 0, text("ab")))
    whole = update(section(1, 0, text("ab"), text("c", origin=(1, 1), right=(1, 0))))
    longer = update(section(1, 2, text("cde", origin=(1, 1), right=(1, 0))))
    assert join_updates([one, whole]) == [whole]
    assert join_updates([one, whole, longer]) == [whole, longer]


def test_an_update_that_is_not_closed_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="not closed"):
        join_updates([update(section(1, 0, b"\x0a\x05"))])


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_joined_history_is_closed_smaller_and_has_every_clock_and_delete(history: History) -> None:
    taken = closed(history)
    joined = join_updates(taken)
    assert sum(map(len, joined)) < sum(map(len, taken))
    assert known_of(joined) == known_of(taken)
    assert join_updates(joined) == joined


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_what_a_joined_update_holds_is_told(history: History) -> None:
    for encoded, ranges, has_deletes in join_summarized(closed(history)):
        parsed = read_update(encoded)
        assert ranges == tuple((client, structs[0].clock, structs[-1].end) for client, structs in parsed.sections)
        came_deleted = any(struct.kind <= DELETED for section in parsed.sections for struct in section.structs)
        assert has_deletes == (came_deleted or bool(parsed.deletes))


def test_a_struct_that_came_deleted_is_told_as_a_delete() -> None:
    for struct, deletes in ((gc(2), True), (item(1, uints(2)), True), (text("ab"), False)):
        (joined,) = join_summarized([update(section(1, 0, text("ab"))), update(section(2, 0, struct))])
        assert joined.ranges == ((2, 0, 2), (1, 0, 2))
        assert joined.has_deletes == deletes
    (joined,) = join_summarized([update(section(1, 0, text("ab"))), update(deletes=((1, 0, 1),))])
    assert joined.has_deletes


@pytest.mark.parametrize("history", WITHOUT_EMOJI, ids=WITHOUT_EMOJI_NAMES)
def test_joined_history_shows_the_same(history: History) -> None:
    taken = closed(history)
    assert shown(join_updates(taken)) == shown([history.state])
    halves = join_updates(taken[:50]) + join_updates(taken[50:])
    assert shown(halves) == shown([history.state])


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
@pytest.mark.parametrize("max_bytes", [1, 100, 1000, 10**6])
def test_every_piece_of_a_split_update_is_closed(history: History, max_bytes: int) -> None:
    pieces = split_update(history.state, Known(), max_bytes)
    known = Known()
    for piece in pieces:
        part = known.close(piece)
        # Nothing is missing and nothing is repeated, but for ranges that name garbage.
        assert part.update is piece or (part.is_empty and not part.missing)
        known.add(part)
        assert len(piece) <= max_bytes or sum(len(s.structs) for s in read_update(piece).sections) <= 1
    assert known == known_of([history.state])
    if max_bytes == 10**6:
        assert len(pieces) == 2, "structs, then deletes"
    if not history.emoji:
        assert shown(pieces) == shown([history.state])


def test_what_is_known_is_not_in_the_pieces() -> None:
    history = HISTORIES[1]
    taken = closed(history)
    before = known_of(taken[:40])
    pieces = split_update(history.state, before, 200)
    for piece in pieces:
        before.add(before.close(piece))
    assert before.clocks == known_of(taken).clocks
    assert sum(map(len, pieces)) < len(history.state)
    assert split_update(history.state, before, 200) == []


def test_deleted_content_becomes_its_length_and_the_rest_is_split_off() -> None:
    gone = "x" * 50
    values = item(8, uints(51) + ONE + TWO * 50, origin=(1, 106), right=(2, 0))
    encoded = update(section(1, 0, text(f"a{gone}c😀{gone}def"), values))
    collected = collect_garbage(encoded, IdRanges([(1, 1, 51), (1, 54, 104), (1, 108, 158)]))
    assert collected == update(
        section(
            1,
            0,
            text("a"),
            item(1, uints(50), origin=(1, 0)),
            text("c😀", origin=(1, 50)),
            item(1, uints(50), origin=(1, 53)),
            text("def", origin=(1, 103)),
            item(8, uints(1) + ONE, origin=(1, 106), right=(2, 0)),
            item(1, uints(50), origin=(1, 107), right=(2, 0)),
        )
    )


def test_an_item_whose_surrogate_pair_is_half_deleted_stays() -> None:
    encoded = update(section(1, 0, text("ab😀cd")), deletes=((1, 3, 5),))
    assert collect_garbage(encoded, IdRanges([(1, 3, 5)])) == encoded


def test_every_kind_of_content_goes_and_garbage_stays() -> None:
    kinds = [
        item(7, uints(1)),
        item(3, b"\x02ab"),
        item(5, var_string("{}")),
        item(6, var_string("bold") + var_string("true")),
        item(9, var_string("guid") + b"\x76\x00"),
        gc(1),
    ]
    encoded = update(section(1, 0, *kinds), deletes=((1, 0, 6),))
    gone = item(1, uints(1))
    assert collect_garbage(encoded, IdRanges([(1, 0, 6)])) == update(
        section(1, 0, gone, gone, gone, gone, gone, kinds[5]), deletes=((1, 0, 6),)
    )


def test_what_hangs_below_a_deleted_type_becomes_garbage() -> None:
    node = item(7, uints(1), parent="nodes", key="n")
    inside = [
        item(8, uints(1) + ONE, parent=(1, 0), key="a"),
        item(7, uints(2), parent=(1, 0), key="title"),
        text("abc", parent=(1, 2)),
    ]
    others = [text("de", origin=(1, 4), right=(1, 5)), item(1, uints(3), origin=(2, 1))]
    encoded = update(section(2, 0, *others), section(1, 0, node, *inside, text("live")))
    deletes = IdRanges([(1, 0, 6), (2, 0, 5)])
    assert collect_garbage(encoded, deletes) == update(
        section(2, 0, gc(5)), section(1, 0, item(1, uints(1), parent="nodes", key="n"), gc(5), text("live"))
    )


def test_what_was_added_below_a_deleted_type_and_never_deleted_stays() -> None:
    encoded = update(
        section(2, 0, text("d" + "e" * 20, origin=(1, 2)), item(8, uints(1) + ONE, parent=(1, 0), key="a")),
        section(1, 0, item(7, uints(2)), text("abc", parent=(1, 0))),
    )
    assert collect_garbage(encoded, IdRanges([(1, 0, 4), (2, 1, 22)])) == update(
        section(2, 0, text("d", origin=(1, 2)), gc(21)), section(1, 0, item(1, uints(1)), gc(3))
    )


def test_what_refers_to_an_earlier_update_is_garbage_only_below_a_deleted_parent() -> None:
    encoded = update(section(2, 0, text("ab", parent=(1, 0)), text("cd", origin=(2, 0)), text("ef", origin=(1, 9))))
    assert collect_garbage(encoded, IdRanges([(1, 0, 30), (2, 0, 6)])) == update(
        section(2, 0, gc(4), item(1, uints(2), origin=(1, 9)))
    )


def test_what_would_be_lost_with_garbage_keeps_it_from_being_made() -> None:
    inside = [item(7, uints(2)), text("abc", parent=(1, 0))]
    live = text(
        "live", origin=(1, 4), right=(1, 1)
    )  # in one type and before an item of another: no stock client writes it
    encoded = update(section(1, 0, *inside, text("t"), live))
    assert collect_garbage(encoded, IdRanges([(1, 0, 4)])) == update(
        section(1, 0, item(1, uints(1)), item(1, uints(3), parent=(1, 0)), text("t"), live)
    )


def test_without_deletes_nothing_is_collected() -> None:
    for history in HISTORIES:
        assert len(join_updates([history.state])) == 1
        assert collect_garbage(history.state, IdRanges()) == join_updates([history.state])[0]


@pytest.mark.parametrize("history", HISTORIES, ids=NAMES)
def test_collecting_keeps_clocks_and_content(history: History) -> None:
    taken = closed(history)
    joined = join_updates(taken)
    known = known_of(taken)
    collected = [collect_garbage(encoded, known.deletes) for encoded in joined]
    assert sum(map(len, collected)) < sum(map(len, joined))
    after = known_of([*collected, delete_set_update(known.deletes)])
    assert (after.clocks, after.deletes) == (known.clocks, known.deletes)
    if not history.emoji:
        assert shown(collected) == shown([history.state])
