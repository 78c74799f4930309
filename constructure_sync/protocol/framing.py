"""WebSocket framing of what the server sends (RFC 6455 §5.2).

A frame made here is shared by every socket it goes to: server frames are unmasked, so they hold nothing of one
connection.
"""

from constructure_sync.protocol.messages import update_message

_SHORT_HEADERS = tuple(bytes((0x82, length)) for length in range(126))
_UPDATE_HEADERS = tuple(bytes((0x82, length + 3, 0, 2, length)) for length in range(123))


def frame(payload: bytes) -> bytes:
    """One whole binary message as one final, unmasked frame.

    payload: the message's bytes, of any length below 2^63.
    """
    length = len(payload)
    if length < 126:
        return _SHORT_HEADERS[length] + payload
    if length < 65536:
        return b"\x82\x7e" + length.to_bytes(2, "big") + payload
    return b"\x82\x7f" + length.to_bytes(8, "big") + payload


def framed_update(update: bytes) -> bytes:
    """The frame of the message that carries a live update: `frame(update_message(update))`, in one step for short ones."""
    length = len(update)
    if length < 123:
        return _UPDATE_HEADERS[length] + update
    return frame(update_message(update))
