"""Bus messages as bytes: they come back as they went, and hostile bytes are a violation or a message, never anything else."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constructure_sync.bus.contracts import (
    Invalidated,
    PresenceAsked,
    PresenceChanged,
    PresenceEntry,
    RightsChanged,
    RollCalled,
    Saved,
)
from constructure_sync.bus.messages import MAX_CONTENT_BYTES, Letter, Lost, Message, decode, encode, sendable
from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.awareness import GONE, AwarenessEntry
from schemas.ids import CommitId, CourseId, Seq, UserId

SAFE = st.integers(0, 2**53 - 1)
COMMITS = st.integers(0, 2**63 - 1).map(CommitId)


@st.composite
def saved(draw: st.DrawFn) -> Saved:
    first, updates = draw(st.integers(1, 2**52)), draw(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
    return Saved(
        Seq(first),
        Seq(first + len(updates) - 1),
        draw(COMMITS),
        draw(st.none() | COMMITS),
        draw(st.sampled_from([None, tuple(updates)])),
    )


STATES = st.sampled_from([GONE, b"{}", b'{"user":{"name":"Ada"}}', '{"a":["é",null]}'.encode()])
ENTRIES = st.builds(PresenceEntry, SAFE, st.uuids().map(UserId), st.builds(AwarenessEntry, SAFE, SAFE, STATES))
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    saved(),
    st.builds(PresenceChanged, st.lists(ENTRIES, max_size=4)),
    st.just(PresenceAsked()),
    st.just(RollCalled()),
    st.just(Lost()),
    st.builds(RightsChanged, st.uuids().map(CourseId)),
    st.builds(Invalidated, st.text(max_size=16), st.uuids()),
)
LETTERS = st.builds(Letter, SAFE, SAFE, MESSAGES)


def written(letter: Letter) -> bytes:
    assert letter.message is not None
    return encode(letter.sender, letter.sent_at, letter.message)


@settings(deadline=None)
@given(LETTERS)
def test_a_letter_comes_back_as_it_went(letter: Letter) -> None:
    assert decode(written(letter)) == letter


@settings(deadline=None)
@given(LETTERS, st.data())
def test_a_letter_cut_short_or_with_more_behind_it_is_a_violation(letter: Letter, data: st.DataObject) -> None:
    encoded = written(letter)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for broken in (encoded[:cut], encoded + b"\x00"):
        with pytest.raises(ProtocolViolation):
            decode(broken)


@settings(deadline=None)
@given(LETTERS, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_are_a_violation_or_a_letter_that_can_be_sent_again(
    letter: Letter, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(written(letter))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        read = decode(bytes(data))
    except ProtocolViolation:
        return
    assert decode(written(read)) == read


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_violation_or_a_letter(data: bytes) -> None:
    try:
        read = decode(b"\x01" + data)
    except ProtocolViolation:
        return
    assert decode(written(read)) == read


def test_BU2_ones_own_letter_is_not_read() -> None:
    data = encode(7, 12, RollCalled())
    assert decode(data, reader_id=7) == Letter(7, 12, None)
    assert decode(data, reader_id=8) == Letter(7, 12, RollCalled())


HEAD = b"\x01\x07\x00"
COMMIT = bytes(8)
PERSON = b"\x01" + bytes(16) + b"\x01\x01"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("nothing", b""),
        ("another version", b"\x02\x07\x00\x03"),
        ("an unknown kind", HEAD + b"\x63"),
        ("a sender above 2^53-1", b"\x01" + b"\xff" * 8 + b"\x01\x00\x03"),
        ("Seq 0", HEAD + b"\x01\x00\x00" + COMMIT + b"\x00\x00"),
        ("the last before the first", HEAD + b"\x01\x05\x04" + COMMIT + b"\x00\x00"),
        ("a commit id of 64 bits", HEAD + b"\x01\x01\x01" + b"\xff" * 8 + b"\x00\x00"),
        ("a flag of 2", HEAD + b"\x01\x01\x01" + COMMIT + b"\x02\x00"),
        ("more updates announced than bytes", HEAD + b"\x01\x01\xff\xff\xff\x7f" + COMMIT + b"\x00\x01\x00"),
        ("more entries announced than bytes", HEAD + b"\x02\xff\xff\xff\x7f"),
        ("a state that is not JSON", HEAD + b"\x02\x01" + PERSON + b"\x01{"),
        ("a state that is no object", HEAD + b"\x02\x01" + PERSON + b"\x01" + b"7"),
        ("a state nested too deep", HEAD + b"\x02\x01" + PERSON + b"\xe8\x07" + b"[" * 1000),
        ("the name of a cache too long", HEAD + b"\x07\x41" + b"x" * 65 + bytes(16)),
        ("the name of a cache not UTF-8", HEAD + b"\x07\x01\xff" + bytes(16)),
        ("too many bytes", HEAD + b"\x03" + bytes(5 * 1024 * 1024)),
    ],
)
def test_malformed_letters_are_violations(name: str, data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(data)


@pytest.mark.parametrize(("extra", "travels"), [(0, True), (1, False)])
def test_updates_beyond_the_limit_are_left_to_the_log(extra: int, travels: bool) -> None:
    half = bytes(MAX_CONTENT_BYTES // 2)
    message = Saved(Seq(1), Seq(2), CommitId(5), None, (half, half + bytes(extra)))
    (sent,) = sendable(message)
    assert sent == (message if travels else replace(message, updates=None))


def test_presence_of_many_travels_in_parts() -> None:
    state = b'{"a":"%s"}' % (b"x" * 4000)
    entries = [PresenceEntry(1, UserId(UUID(int=1)), AwarenessEntry(n, 0, state)) for n in range(200)]
    parts = list(sendable(PresenceChanged(entries)))
    assert [entry for part in parts if isinstance(part, PresenceChanged) for entry in part.entries] == entries
    assert len(parts) > 1
    assert max(len(encode(1, 0, part)) for part in parts) < MAX_CONTENT_BYTES * 1.1
    assert list(sendable(PresenceChanged([]))) == []
