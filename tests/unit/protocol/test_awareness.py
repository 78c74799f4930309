"""Awareness payloads: total decoding, and JSON exactly as JSON.parse takes it and JSON.stringify writes it."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.awareness import (
    GONE,
    MAX_STATE_DEPTH,
    AwarenessEntry,
    Json,
    decode_awareness,
    encode_awareness,
    parse_json,
    stamp_user,
    stringify,
)

ENTRIES = st.lists(
    st.builds(AwarenessEntry, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.binary(max_size=50)), max_size=5
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=12,
)


@given(ENTRIES)
def test_entries_are_read_as_they_were_written(entries: list[AwarenessEntry]) -> None:
    assert decode_awareness(encode_awareness(entries)) == entries


@given(st.binary(max_size=60))
def test_any_bytes_are_entries_or_a_violation(data: bytes) -> None:
    try:
        entries = decode_awareness(data)
    except ProtocolViolation:
        return
    assert len(entries) * 3 < len(data) + 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x02\x01\x00\x02{}",
        b"\x01\x01\x00\x03{}",
        b"\x00\x00",
        b"\x01\x01\x00\x02{}x",
        b"\xff\xff\xff\x7f\x01",
    ],
)
def test_cut_announced_and_trailing_bytes_are_violations(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_awareness(data)


def test_a_keepalive_holds_no_entries() -> None:
    assert decode_awareness(b"\x00") == []


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (123456789012345680000, "123456789012345680000"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-9, "1.5e-9"),
        (5e-324, "5e-324"),
        (1e-4, "0.0001"),
        (9.5e-5, "0.000095"),
        (-100.0, "-100"),
        (999999999999999.9, "999999999999999.9"),
        (1e15, "1000000000000000"),
        (1e16, "10000000000000000"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (2**53, "9007199254740992"),
        (2**53 + 1, "9007199254740992"),
        (10**400, "null"),
        (math.inf, "null"),
        ('é\n"\\\u2028\x7f/', '"é\\n\\"\\\\\u2028\x7f/"'),
        ("\x00\x1f\b\f", '"\\u0000\\u001f\\b\\f"'),
        ("\ud800", '"\\ud800"'),
        ("😀", '"😀"'),
        ([], "[]"),
        ([1, [None]], "[1,[null]]"),
        ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
        ({"b": 0, "10": 1, "9": 2, "01": 3}, '{"9":2,"10":1,"b":0,"01":3}'),
        ({"4294967295": 1, "4294967294": 2}, '{"4294967294":2,"4294967295":1}'),
    ],
)
def test_values_are_written_as_JSON_stringify_does(value: Json, written: str) -> None:
    assert stringify(value) == written


@given(VALUES)
def test_what_is_written_reads_back_the_same(value: Json) -> None:
    assert json.loads(stringify(value), parse_int=float) == value  # numbers are doubles there


@given(VALUES)
def test_writing_what_was_written_changes_nothing(value: Json) -> None:
    written = stringify(parse_json(stringify(value).encode("utf-8", "surrogatepass")))
    assert written == stringify(parse_json(written.encode("utf-8", "surrogatepass")))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"{",
        b"{'a':1}",
        b'{"a":1}x',
        b"\xff",
        b"[1,]",
        b"01",
        b'"\n"',
        b"\xed\xa0\x80",
    ],
)
def test_what_JSON_parse_refuses_is_a_violation(text: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse_json(text)


@pytest.mark.parametrize(
    ("depth", "is_taken"), [(MAX_STATE_DEPTH, True), (MAX_STATE_DEPTH + 1, False), (100_000, False)]
)
def test_nesting_has_a_limit(depth: int, is_taken: bool) -> None:
    text = b"[" * depth + b"]" * depth
    if is_taken:
        parse_json(text)
    else:
        with pytest.raises(ProtocolViolation):
            parse_json(text)


def test_brackets_in_strings_do_not_nest() -> None:
    text = json.dumps({"a": '[{"\\' * 100}).encode()
    assert parse_json(text) == {"a": '[{"\\' * 100}


@pytest.mark.parametrize(
    ("state", "stamped"),
    [
        (b"{}", '{"user":{"id":"7","name":"Ada"}}'),
        (
            b'{"x":1,"user":{"color":"red","name":"Eve","id":"9"},"y":2}',
            '{"x":1,"user":{"color":"red","name":"Ada","id":"7"},"y":2}',
        ),
        (b'{"user":5}', '{"user":{"id":"7","name":"Ada"}}'),
        (b'{"user":null}', '{"user":{"id":"7","name":"Ada"}}'),
    ],
)
def test_a_state_is_stamped_with_its_user(state: bytes, stamped: str) -> None:
    assert stamp_user(state, "7", "Ada").decode() == stamped
    assert stamp_user(stamped.encode(), "7", "Ada").decode() == stamped


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("5.0", "5"),
        ("-0.0", "0"),
        ("-0", "0"),
        ("1.50", "1.5"),
        ("12E2", "1200"),
        ("0.00001", "0.00001"),
        ("1e-7", "1e-7"),
        ("100000000000000.5", "100000000000000.5"),
        ("1000000000000000.0", "1000000000000000"),
        ("999999999999999", "999999999999999"),
        ("9007199254740993", "9007199254740992"),
        ("1e999", "null"),
        ('{"b":1,"10":2,"9":3}', '{"9":3,"10":2,"b":1}'),
        ('{"b":1,"\\u0039":3}', '{"9":3,"b":1}'),
        ('{"b":1,"a":2,"b":3}', '{"b":3,"a":2}'),
        ('"\\ud800"', '"\\ud800"'),
        ('"\\ud83d\\ude00"', '"😀"'),
        ('"é\u2028\x7f\\/"', '"é\u2028\x7f/"'),
    ],
)
def test_what_a_client_says_in_its_state_is_stamped_as_JSON_stringify_writes_it(value: str, written: str) -> None:
    stamped = stamp_user(f'{{"a":{value}}}'.encode(), "7", "Ada").decode()
    assert stamped == f'{{"a":{written},"user":{{"id":"7","name":"Ada"}}}}'


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_every_state_is_stamped_as_it_would_be_written(state: dict[str, Json]) -> None:
    state.pop("user", None)
    text = json.dumps(state).encode()
    value = parse_json(text)
    assert isinstance(value, dict)
    assert stamp_user(text, "7", "A\ud800").decode() == stringify({**value, "user": {"id": "7", "name": "A\ud800"}})


@pytest.mark.parametrize("state", [b"[]", b"1", b'"a"', GONE, b"true", b"x"])
def test_a_state_that_is_no_object_is_a_violation(state: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        stamp_user(state, "7", "Ada")
