"""A frame is the shortest RFC 6455 form of one whole unmasked binary message."""

import pytest

from constructure_sync.protocol.framing import frame, framed_update
from constructure_sync.protocol.messages import update_message


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (0, b"\x82\x00"),
        (1, b"\x82\x01"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_every_length_has_its_header(length: int, header: bytes) -> None:
    payload = b"x" * length
    assert frame(payload) == header + payload


@pytest.mark.parametrize("length", [0, 1, 121, 122, 123, 124, 127, 128, 65_530, 65_536])
def test_an_update_is_framed_as_its_message(length: int) -> None:
    update = b"x" * length
    assert framed_update(update) == frame(update_message(update))
