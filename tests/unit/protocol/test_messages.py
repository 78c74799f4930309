"""Decoding is total: every frame is one message of a known type, or a violation."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.messages import (
    KEEPALIVE,
    AwarenessUpdate,
    Message,
    QueryAwareness,
    SyncStep1,
    SyncStep2,
    Update,
    awareness_message,
    decode_message,
    receipt,
    sync_step1,
    sync_step2,
    update_message,
)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"\x00\x00\x01\x00", SyncStep1(b"\x00")),
        (b"\x00\x00\x00", SyncStep1(b"")),
        (b"\x00\x01\x02\x00\x00", SyncStep2(b"\x00\x00")),
        (b"\x00\x02\x02\x00\x00", Update(b"\x00\x00")),
        (b"\x00\x02\x00", Update(b"")),
        (b"\x00\x02\x7f" + b"u" * 127, Update(b"u" * 127)),
        (b"\x00\x02\x80\x01" + b"u" * 128, Update(b"u" * 128)),
        (b"\x00\x02\x81\x00u", Update(b"u")),
        (b"\x80\x00\x02\x01u", Update(b"u")),
        (KEEPALIVE, AwarenessUpdate(b"\x00")),
        (b"\x03", QueryAwareness()),
    ],
)
def test_known_messages_are_read(frame: bytes, message: Message) -> None:
    decoded = decode_message(frame)
    assert type(decoded) is type(message)
    assert decoded == message


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x00\x02",
        b"\x00\x02\x01",
        b"\x00\x02\x80",
        b"\x00\x02\x02u",
        b"\x00\x02\x01uu",
        b"\x00\x02\x80\x01" + b"u" * 127,
        b"\x00\x02\x80\x01" + b"u" * 129,
        b"\x00\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01u",
        b"\x00\x01\x01\x00\x00",
        b"\x00\x03\x00",
        b"\x00\x7f\x00",
        b"\x01",
        b"\x01\x05\x00",
        b"\x01\x01\x00\x00",
        b"\x02\x00\x00",
        b"\x03\x00",
        b"\x03\x03",
        b"\x04\x00",
        b"\x66\x01\x01",
        b"\x78\x01\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x02\x01u\x00\x02\x01v",
    ],
)
def test_everything_else_is_a_violation(frame: bytes) -> None:
    with pytest.raises(ProtocolViolation) as violation:
        decode_message(frame)
    assert violation.value.code == 4400


@given(st.binary(max_size=300))
def test_encoders_and_decoder_agree(content: bytes) -> None:
    assert decode_message(sync_step1(content)) == SyncStep1(content)
    assert decode_message(sync_step2(content)) == SyncStep2(content)
    assert decode_message(update_message(content)) == Update(content)
    assert decode_message(awareness_message(content)) == AwarenessUpdate(content)


@given(st.binary(max_size=40))
@example(b"\x00\x02\x7f")
def test_any_bytes_are_a_message_or_a_violation(frame: bytes) -> None:
    try:
        message = decode_message(frame)
    except ProtocolViolation:
        return
    assert isinstance(message, Message)


def test_receipt_is_a_private_message_type_with_two_numbers() -> None:
    assert receipt(1, 2) == b"\x78\x01\x02"
    assert receipt(300, 2**40) == b"\x78\xac\x02\x80\x80\x80\x80\x80\x20"
