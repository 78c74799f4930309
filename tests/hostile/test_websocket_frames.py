"""RFC 6455 on a raw socket: what a client may send is echoed, what it may not ends this one socket cleanly."""

import struct

import pytest

from constructure_sync.transport.acceptor import SocketLimits
from tests.unit.transport.harness import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Client,
    FakeConnection,
    Stage,
    client_frame,
    close_payload,
    on_both_loops,
    serving,
    until,
)

LIMIT = 100_000
f = client_frame

TAKEN: dict[str, tuple[bytes, list[tuple[int, bytes]]]] = {
    "empty": (f(BINARY), [(BINARY, b"")]),
    "125 bytes": (f(BINARY, b"x" * 125), [(BINARY, b"x" * 125)]),
    "126 bytes": (f(BINARY, b"x" * 126), [(BINARY, b"x" * 126)]),
    "65535 bytes": (f(BINARY, b"x" * 65535), [(BINARY, b"x" * 65535)]),
    "65536 bytes": (f(BINARY, b"x" * 65536), [(BINARY, b"x" * 65536)]),
    "at the limit": (f(BINARY, b"x" * LIMIT), [(BINARY, b"x" * LIMIT)]),
    "mask of zeros": (f(BINARY, b"abc", mask=bytes(4)), [(BINARY, b"abc")]),
    "two messages in one write": (f(BINARY, b"a") + f(BINARY, b"b"), [(BINARY, b"a"), (BINARY, b"b")]),
    "hundred messages in one write": (f(BINARY, b"a") * 100, [(BINARY, b"a")] * 100),
    "two fragments": (f(BINARY, b"a", fin=False) + f(CONT, b"b"), [(BINARY, b"ab")]),
    "empty fragments": (
        f(BINARY, fin=False) + f(CONT, fin=False) * 50 + f(CONT, b"z", fin=False) + f(CONT),
        [(BINARY, b"z")],
    ),
    "only empty fragments": (f(BINARY, fin=False) + f(CONT), [(BINARY, b"")]),
    "fragments at the limit": (
        f(BINARY, b"x" * (LIMIT // 2), fin=False) + f(CONT, b"y" * (LIMIT // 2)),
        [(BINARY, b"x" * (LIMIT // 2) + b"y" * (LIMIT // 2))],
    ),
    "ping between fragments": (
        f(BINARY, b"a", fin=False) + f(PING, b"p") + f(CONT, b"b"),
        [(PONG, b"p"), (BINARY, b"ab")],
    ),
    "pong between fragments": (f(BINARY, b"a", fin=False) + f(PONG) + f(CONT, b"b"), [(BINARY, b"ab")]),
    "message after fragments": (
        f(BINARY, b"a", fin=False) + f(CONT, b"b") + f(BINARY, b"c"),
        [(BINARY, b"ab"), (BINARY, b"c")],
    ),
    "empty ping": (f(PING), [(PONG, b"")]),
    "ping of 125 bytes": (f(PING, b"p" * 125), [(PONG, b"p" * 125)]),
    "pong unasked": (f(PONG, b"q") + f(BINARY, b"a"), [(BINARY, b"a")]),
}

ENDED: dict[str, tuple[bytes, int]] = {
    "unmasked message": (f(BINARY, b"a", mask=None), 1002),
    "unmasked ping": (f(PING, mask=None), 1002),
    "unmasked close": (f(CLOSE, mask=None), 1002),
    "first reserved bit": (f(BINARY, b"a", rsv=4), 1002),
    "second reserved bit": (f(BINARY, b"a", rsv=2), 1002),
    "third reserved bit": (f(BINARY, b"a", rsv=1), 1002),
    "reserved bit on a ping": (f(PING, rsv=4), 1002),
    "reserved bit on a close": (f(CLOSE, close_payload(1000), rsv=4), 1002),
    "reserved bit on a continuation": (f(BINARY, b"a", fin=False) + f(CONT, b"b", rsv=1), 1002),
    **{f"reserved opcode {opcode:x}": (f(opcode, b"a"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (f(PING, b"p", fin=False), 1002),
    "fragmented close": (f(CLOSE, close_payload(1000), fin=False), 1002),
    "ping of 126 bytes": (f(PING, b"p" * 126), 1002),
    "close of 126 bytes": (f(CLOSE, close_payload(1000, b"r" * 124)), 1002),
    "16-bit length where 7 bits do": (f(BINARY, b"a" * 125, form=16), 1002),
    "64-bit length where 16 bits do": (f(BINARY, b"a" * 300, form=64), 1002),
    "64-bit length with its highest bit": (f(BINARY, declared=1 << 63, form=64), 1002),
    "continuation of nothing": (f(CONT, b"a"), 1002),
    "unfinished continuation of nothing": (f(CONT, b"a", fin=False), 1002),
    "message inside fragments": (f(BINARY, b"a", fin=False) + f(BINARY, b"b"), 1002),
    "second beginning": (f(BINARY, b"a", fin=False) + f(BINARY, b"b", fin=False), 1002),
    "text": (f(TEXT, b"hello"), 4400),
    "empty text": (f(TEXT), 4400),
    "text that is not UTF-8": (f(TEXT, b"\xff\xfe"), 4400),
    "fragmented text": (f(TEXT, b"he", fin=False) + f(CONT, b"llo"), 4400),
    "text inside fragments": (f(BINARY, b"a", fin=False) + f(TEXT, b"b"), 4400),
    "one byte over the limit": (f(BINARY, b"x" * (LIMIT + 1)), 4413),
    "fragments over the limit": (f(BINARY, b"x" * LIMIT, fin=False) + f(CONT, b"y"), 4413),
    "endless fragments": (f(BINARY, b"x" * 1000, fin=False) + f(CONT, b"y" * 1000, fin=False) * 200, 4413),
    "an enormous length": (f(BINARY, b"x" * (LIMIT * 2), declared=1 << 62, form=64), 4413),
    "an enormous length in a continuation": (
        f(BINARY, b"x" * 50_000, fin=False) + f(CONT, b"x" * 60_000, declared=1 << 40, form=64),
        4413,
    ),
    "close without code": (f(CLOSE), 1000),
    "close 1000": (f(CLOSE, close_payload(1000, b"bye")), 1000),
    "close 1001": (f(CLOSE, close_payload(1001)), 1001),
    "close 3000": (f(CLOSE, close_payload(3000)), 3000),
    "close 4999": (f(CLOSE, close_payload(4999)), 4999),
    "close of one byte": (f(CLOSE, b"\x03"), 1002),
    **{
        f"close with code {code}": (f(CLOSE, close_payload(code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "close with a reason that is not UTF-8": (f(CLOSE, close_payload(1000, b"\xff\xff")), 1007),
    "two closes": (f(CLOSE, close_payload(1000)) * 2, 1002),
    "message after a close": (f(CLOSE, close_payload(1000)) + f(BINARY, b"a"), 1000),
    "close inside fragments": (f(BINARY, b"a", fin=False) + f(CLOSE, close_payload(1001)), 1001),
    "an HTTP request": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1002),
    "noise": (bytes(range(255, 0, -1)), 1002),
}

CUT = {
    "nothing": b"",
    "half a header": b"\x82",
    "half a length": b"\x82\xfe\x01",
    "half a long length": b"\x82\xff\x00\x00\x00",
    "half a mask": f(BINARY, b"abc")[:4],
    "half a payload": f(BINARY, b"abc")[:-1],
    "half a message": f(BINARY, b"abc", fin=False),
}


def limited(stage: Stage) -> None:
    stage.make = lambda socket: FakeConnection(socket, max_message_bytes=LIMIT)


async def still_serves(stage: Stage) -> None:
    """A new socket works."""
    other = await stage.connect()
    await other.send(f(BINARY, b"still here"))
    assert await other.frame() == (BINARY, b"still here")


@pytest.mark.parametrize("case", TAKEN)
@on_both_loops
async def test_well_formed_frames_are_taken(case: str) -> None:
    sent, expected = TAKEN[case]
    async with serving() as stage:
        limited(stage)
        client = await stage.connect()
        await client.send(sent)
        assert [await client.frame() for _ in expected] == expected


@pytest.mark.parametrize(
    "case", ["two fragments", "ping between fragments", "126 bytes", "hundred messages in one write"]
)
@on_both_loops
async def test_bytes_may_come_one_by_one(case: str) -> None:
    sent, expected = TAKEN[case]
    async with serving() as stage:
        client = await stage.connect()
        for byte in sent:
            await client.send(bytes((byte,)))
        assert [await client.frame() for _ in expected] == expected


@pytest.mark.parametrize("case", ENDED)
@on_both_loops
async def test_broken_frames_end_one_socket_cleanly(case: str) -> None:
    sent, code = ENDED[case]
    async with serving(SocketLimits(close_timeout=0.5)) as stage:
        limited(stage)
        client = await stage.connect()
        await client.send(sent)
        assert await client.close_code() == code
        await client.send(f(CLOSE, close_payload(1000)))
        assert await client.at_end()
        assert all(len(message) <= LIMIT for message in stage.connection.messages)
        await still_serves(stage)


@pytest.mark.parametrize("case", CUT)
@pytest.mark.parametrize("how", ["half-closes", "vanishes", "resets"])
@on_both_loops
async def test_a_peer_that_goes_in_the_middle_leaves_nothing(case: str, how: str) -> None:
    async with serving() as stage:
        client = await stage.connect()
        await client.send(CUT[case])
        if how == "half-closes":
            client.writer.write_eof()
            assert await client.at_end()
        elif how == "vanishes":
            await client.leave()
        else:
            await reset(client)
        await until(lambda: stage.connection.events == ["ended"])
        assert stage.connection.messages == []


async def reset(client: Client) -> None:
    """End the TCP connection with RST."""
    import socket

    raw = client.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


@on_both_loops
async def test_an_upload_over_the_limit_is_told_so_while_it_is_sent() -> None:
    async with serving() as stage:
        limited(stage)
        client = await stage.connect()
        await client.send(f(BINARY, b"x" * 1000, declared=1 << 30, form=64))
        for _ in range(1000):
            await client.send(b"x" * 65536)
        assert await client.close_code() == 4413
        assert stage.connection.messages == []


@on_both_loops
async def test_pongs_do_not_pile_up_for_a_peer_that_does_not_read() -> None:
    async with serving() as stage:
        client = await stage.connect(limit=1024)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = stage.connection
        while "congested" not in connection.events:
            connection.socket.write(b"\x82\x7e\xff\xff" + bytes(65535))
        before = connection.socket.buffered
        await client.send(f(PING, b"p" * 125) * 1000 + f(BINARY, b"end"))
        connection.echo = False
        await until(lambda: connection.messages == [b"end"])
        assert connection.socket.buffered <= before
