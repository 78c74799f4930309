"""One open socket: order under back-pressure, liveness, and an end that always comes."""

import asyncio

import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.transport.acceptor import SocketLimits
from constructure_sync.transport.websocket import WebSocket
from tests.unit.transport.harness import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Client,
    FakeConnection,
    Stage,
    client_frame,
    close_payload,
    on_both_loops,
    serving,
    until,
)

QUICK = SocketLimits(close_timeout=0.1)
CHUNK = b"\x82\x7e\xff\xff" + bytes(65535)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def look(stage: Stage, clock: Clock, seconds: float) -> None:
    """Let seconds pass, then look at every socket."""
    clock.now += seconds
    stage.acceptor.check_all(clock.now)


async def congest(stage: Stage) -> Client:
    """A client that does not read, and a connection that has written until the transport said stop."""
    client = await stage.connect(limit=1024)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    while "congested" not in stage.connection.events:
        stage.connection.socket.write(CHUNK)
    return client


async def settle() -> None:
    """Let the loop carry out what was just asked of it."""
    for _ in range(5):
        await asyncio.sleep(0)


def read_on(client: Client) -> None:
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]


@on_both_loops
async def test_a_paused_connection_gets_nothing_and_then_everything_in_order() -> None:
    async with serving() as stage:
        client = await stage.connect()
        connection = stage.connection
        connection.on_message = lambda message: connection.socket.pause_reading() if message == b"1" else None
        sent = [str(number).encode() for number in range(50)]
        await client.send(b"".join(client_frame(BINARY, message) for message in sent))
        assert [await client.frame() for _ in range(2)] == [(BINARY, b"0"), (BINARY, b"1")]
        await client.send(client_frame(BINARY, b"last"))
        assert connection.messages == [b"0", b"1"]
        connection.socket.resume_reading()
        assert [await client.frame() for _ in range(49)] == [(BINARY, m) for m in [*sent[2:], b"last"]]


@on_both_loops
async def test_a_connection_may_pause_again_at_every_message() -> None:
    async with serving() as stage:
        client = await stage.connect()
        connection = stage.connection
        connection.on_message = lambda _: connection.socket.pause_reading()
        await client.send(client_frame(BINARY, b"a") + client_frame(BINARY, b"b") + client_frame(BINARY, b"c"))
        for count in (1, 2, 3):
            await until(lambda: len(connection.messages) == count)  # noqa: B023  # awaited at once
            connection.socket.resume_reading()
        assert connection.messages == [b"a", b"b", b"c"]


@on_both_loops
async def test_a_connection_may_resume_inside_receive() -> None:
    async with serving() as stage:
        client = await stage.connect()
        connection = stage.connection

        def pause_and_resume(message: bytes) -> None:
            connection.socket.pause_reading()
            connection.socket.resume_reading()

        connection.on_message = pause_and_resume
        await client.send(client_frame(BINARY, b"a") + client_frame(BINARY, b"b"))
        assert [await client.frame(), await client.frame()] == [(BINARY, b"a"), (BINARY, b"b")]


@on_both_loops
async def test_a_close_waits_for_the_messages_before_it() -> None:
    async with serving() as stage:
        client = await stage.connect()
        connection = stage.connection
        connection.on_message = lambda _: connection.socket.pause_reading()
        await client.send(
            client_frame(BINARY, b"big") + client_frame(BINARY, b"last") + client_frame(CLOSE, close_payload(1001))
        )
        await until(lambda: connection.messages == [b"big"])
        connection.on_message = None
        connection.socket.resume_reading()
        assert await client.close_code() == 1001
        assert connection.messages == [b"big", b"last"]


@on_both_loops
async def test_a_violation_closes_with_its_code_and_delivers_nothing_more() -> None:
    async with serving(QUICK) as stage:
        client = await stage.connect()

        def refuse(message: bytes) -> None:
            raise ProtocolViolation("too many entries", 4413)

        stage.connection.on_message = refuse
        await client.send(client_frame(BINARY, b"a") + client_frame(BINARY, b"b"))
        opcode, payload = await client.frame()
        assert (opcode, payload) == (CLOSE, close_payload(4413, b"too many entries"))
        assert await client.at_end()
        assert stage.connection.messages == [b"a"]


@pytest.mark.parametrize("held", [False, True])
@on_both_loops
async def test_a_failing_connection_is_closed_with_1011(held: bool) -> None:
    async with serving(QUICK) as stage:
        client = await stage.connect()
        connection = stage.connection

        def fail(message: bytes) -> None:
            raise RuntimeError("no")

        if held:
            connection.socket.pause_reading()
            connection.on_message = fail
            await client.send(client_frame(BINARY, b"a"))
            connection.socket.resume_reading()
        else:
            connection.on_message = fail
            await client.send(client_frame(BINARY, b"a"))
        assert await client.close_code() == 1011


@on_both_loops
async def test_the_limit_may_be_lowered_while_the_socket_is_open() -> None:
    async with serving(QUICK) as stage:
        client = await stage.connect()
        await client.send(client_frame(BINARY, b"x" * 2000))
        assert await client.frame() == (BINARY, b"x" * 2000)
        stage.connection.max_message_bytes = 1000
        await client.send(client_frame(BINARY, b"x" * 2000))
        assert await client.close_code() == 4413


@on_both_loops
async def test_a_close_sends_one_frame_and_nothing_after_it() -> None:
    async with serving(QUICK) as stage:
        client = await stage.connect()
        socket = stage.connection.socket
        socket.close(4404, "deleted")
        socket.close(1011, "again")
        socket.write(b"\x82\x01x")
        socket.ping()
        assert await client.frame() == (CLOSE, close_payload(4404, b"deleted"))
        assert await client.at_end()


@on_both_loops
async def test_a_long_reason_is_cut_between_characters() -> None:
    async with serving(QUICK) as stage:
        client = await stage.connect()
        stage.connection.socket.close(4400, "é" * 100)
        assert await client.frame() == (CLOSE, close_payload(4400, "é".encode() * 61))


@on_both_loops
async def test_a_peer_that_answers_a_close_is_let_go_at_once() -> None:
    async with serving(SocketLimits(close_timeout=600)) as stage:
        client = await stage.connect()
        stage.connection.socket.close(4404, "deleted")
        assert await client.close_code() == 4404
        await client.send(client_frame(CLOSE, close_payload(4404)))
        assert await client.at_end()


@on_both_loops
async def test_a_close_ends_also_a_congested_and_paused_socket() -> None:
    async with serving(QUICK) as stage:
        await congest(stage)
        stage.connection.socket.pause_reading()
        stage.connection.socket.close(1012, "restart")
        await until(lambda: "ended" in stage.connection.events)


@on_both_loops
async def test_everything_is_harmless_after_the_end() -> None:
    async with serving() as stage:
        client = await stage.connect()
        await client.leave()
        connection = stage.connection
        await until(lambda: connection.events == ["ended"])
        socket = connection.socket
        assert isinstance(socket, WebSocket)
        socket.write(b"\x82\x01x")
        socket.pause_reading()
        socket.resume_reading()
        socket.ping()
        socket.close(1011, "late")
        socket.shutdown()
        socket.check(1e9)
        assert socket.buffered == 0
        assert connection.events == ["ended"]


@on_both_loops
async def test_back_pressure_reaches_the_connection_and_goes_again() -> None:
    async with serving() as stage:
        client = await congest(stage)
        connection = stage.connection
        assert connection.socket.buffered > stage.acceptor.limits.write_low
        read_on(client)
        while "writable" not in connection.events:
            await client.frame()
        assert connection.events == ["congested", "writable"]


@on_both_loops
async def test_R4_a_socket_of_which_no_byte_moves_for_30_s_is_ended() -> None:
    clock = Clock()
    async with serving(clock=clock) as stage:
        await congest(stage)
        for _ in range(5):
            look(stage, clock, 5)
        await settle()
        assert "ended" not in stage.connection.events
        stage.connection.socket.write(b"\x82\x01x")
        look(stage, clock, 5)
        await until(lambda: "ended" in stage.connection.events)


@on_both_loops
async def test_R4_a_slow_socket_that_moves_is_only_behind() -> None:
    clock = Clock()
    async with serving(clock=clock) as stage:
        client = await congest(stage)
        socket = stage.connection.socket
        assert isinstance(socket, WebSocket)
        for _ in range(4):
            socket.write(CHUNK * 20)
        for _ in range(6):
            look(stage, clock, 25)
            waiting = socket.bytes_waiting
            read_on(client)
            while socket.bytes_waiting >= waiting:
                await client.frame()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await settle()
        assert "ended" not in stage.connection.events
        assert "writable" not in stage.connection.events


@on_both_loops
async def test_a_silent_peer_is_pinged_after_20_s_and_ended_after_60() -> None:
    clock = Clock()
    async with serving(clock=clock) as stage:
        client = await stage.connect()
        look(stage, clock, 0)
        look(stage, clock, 19)
        stage.connection.socket.write(b"\x82\x01x")
        look(stage, clock, 1)
        look(stage, clock, 5)
        assert [await client.frame(), await client.frame()] == [(BINARY, b"x"), (PING, b"")]
        look(stage, clock, 34)
        assert await client.frame() == (PING, b"")
        look(stage, clock, 1)
        assert await client.at_end()


@pytest.mark.parametrize("sent", [client_frame(PONG), client_frame(BINARY, b"a"), client_frame(BINARY, b"ab")[:-1]])
@on_both_loops
async def test_whatever_a_peer_sends_shows_that_it_lives(sent: bytes) -> None:
    clock = Clock()
    async with serving(clock=clock) as stage:
        client = await stage.connect()
        socket = stage.connection.socket
        assert isinstance(socket, WebSocket)
        look(stage, clock, 0)
        look(stage, clock, 59)
        await client.send(sent)
        await until(lambda: socket.heard)
        look(stage, clock, 1)
        look(stage, clock, 59)
        await settle()
        assert "ended" not in stage.connection.events


@on_both_loops
async def test_a_socket_that_we_do_not_read_is_not_called_silent() -> None:
    clock = Clock()
    async with serving(clock=clock) as stage:
        await stage.connect()
        stage.connection.socket.pause_reading()
        for _ in range(20):
            look(stage, clock, 50)
        await settle()
        assert "ended" not in stage.connection.events
        stage.connection.socket.resume_reading()
        look(stage, clock, 61)
        await until(lambda: "ended" in stage.connection.events)


@on_both_loops
async def test_uvicorn_shutdown_sends_1012() -> None:
    async with serving() as stage:
        client = await stage.connect()
        (connection,) = stage.server.server_state.connections
        connection.shutdown()
        assert await client.frame() == (CLOSE, close_payload(1012, b"restart"))
        await client.send(client_frame(CLOSE, close_payload(1012)))
        assert await client.at_end()
        await until(lambda: not stage.server.server_state.connections)


@on_both_loops
async def test_the_memory_of_a_large_message_is_given_back() -> None:
    async with serving() as stage:
        stage.make = lambda socket: FakeConnection(socket, max_message_bytes=64 << 20)
        client = await stage.connect()
        socket = stage.connection.socket
        assert isinstance(socket, WebSocket)
        for size in (4 << 20, 10):
            message = bytes(size)
            await client.send(client_frame(BINARY, message) + client_frame(BINARY, b"next"))
            assert await client.frame() == (BINARY, message)
            assert await client.frame() == (BINARY, b"next")
        assert socket._parser is None
        assert not stage.acceptor.parsers.shared.has_grown
        await client.send(client_frame(PING, b"p") + client_frame(BINARY, b"after"))
        assert [await client.frame(), await client.frame()] == [(PONG, b"p"), (BINARY, b"after")]


def web_socket(stage: Stage) -> WebSocket:
    socket = stage.connection.socket
    assert isinstance(socket, WebSocket)
    return socket


@on_both_loops
async def test_an_idle_socket_has_no_parser_and_no_buffer() -> None:
    async with serving() as stage:
        sockets = []
        for _ in range(3):
            client = await stage.connect()
            await client.send(client_frame(BINARY, b"a"))
            assert await client.frame() == (BINARY, b"a")
            sockets.append(web_socket(stage))
        assert [(socket._parser, socket._held, socket._fragments) for socket in sockets] == [(None, None, None)] * 3


@on_both_loops
async def test_parts_of_frames_of_several_sockets_are_kept_apart() -> None:
    async with serving() as stage:
        clients = [await stage.connect() for _ in range(20)]
        sockets = [connection.socket for connection in stage.connections]
        messages = [bytes((number,)) * (100 + 1000 * number) for number in range(20)]
        frames = [client_frame(BINARY, message) for message in messages]
        for cut in (1, 3, 50):
            for client, whole in zip(clients, frames, strict=True):
                await client.send(whole[:cut])
            await until(lambda: all(socket._parser is not None for socket in sockets))  # type: ignore[attr-defined]
            for client, whole, message in zip(clients, frames, messages, strict=True):
                await client.send(whole[cut:] + client_frame(BINARY, b"next"))
                assert await client.frame() == (BINARY, message)
                assert await client.frame() == (BINARY, b"next")
            await until(lambda: all(socket._parser is None for socket in sockets))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (client_frame(CLOSE, close_payload(1001)), 1001),
        (client_frame(CLOSE, close_payload(1000)) * 2, 1002),
        (client_frame(CLOSE, close_payload(1000), rsv=4), 1002),
        (client_frame(3, b"a"), 1002),
        (client_frame(BINARY, bytes(2 << 20)), 4413),
    ],
    ids=["close", "two closes", "close with a reserved bit", "broken", "too large"],
)
@on_both_loops
async def test_the_end_of_a_socket_concerns_no_other(end: bytes, code: int) -> None:
    async with serving(QUICK) as stage:
        other = await stage.connect()
        for _ in range(3):
            client = await stage.connect()
            await client.send(end)
            assert await client.close_code() == code
            await other.send(client_frame(BINARY, b"a") + client_frame(PING, b"p"))
            assert [await other.frame(), await other.frame()] == [(BINARY, b"a"), (PONG, b"p")]
        await other.send(client_frame(CLOSE, close_payload(1000)))
        assert await other.close_code() == 1000


class Panic(BaseException):
    """What native code may raise past everything that catches exceptions."""


@on_both_loops
async def test_a_panic_leaves_no_bytes_of_its_socket_to_another() -> None:
    def panic(_: bytes) -> None:
        raise Panic

    async with serving() as stage:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context.get("exception")))
        other = await stage.connect()
        client = await stage.connect()
        stage.connection.on_message = panic
        await client.send(client_frame(BINARY, b"a") * 3 + client_frame(BINARY, b"cut")[:-1])
        assert await client.at_end()
        assert [type(exception) for exception in reported] == [Panic]
        await other.send(client_frame(BINARY, b"its own"))
        assert await other.frame() == (BINARY, b"its own")
        assert stage.connections[0].messages == [b"its own"]


@on_both_loops
async def test_what_comes_before_broken_bytes_is_taken() -> None:
    async with serving(QUICK) as stage:
        client = await stage.connect()
        connection = stage.connection
        await client.send(client_frame(BINARY, b"a") + client_frame(BINARY, b"b") + client_frame(3, b"c"))
        assert await client.close_code() == 1002
        await until(lambda: "ended" in connection.events)
        assert connection.messages == [b"a", b"b"]


@on_both_loops
async def test_the_memory_of_large_messages_of_many_is_given_back() -> None:
    async with serving() as stage:
        clients = [await stage.connect() for _ in range(200)]
        message = bytes(60 << 10)
        for connection in stage.connections:
            connection.echo = False
        for client in clients:
            await client.send(client_frame(BINARY, message))
        await until(lambda: all(connection.messages == [message] for connection in stage.connections))
        parsers = stage.acceptor.parsers
        parsers.trim()
        assert all(connection.socket._parser is None for connection in stage.connections)  # type: ignore[attr-defined]
        assert not any(parser.has_grown for parser in [parsers.shared, *parsers._spare])
        assert len(parsers._spare) <= 8


@on_both_loops
async def test_a_parser_that_has_grown_while_it_was_shared_is_replaced() -> None:
    async with serving() as stage:
        client = await stage.connect()
        parsers = stage.acceptor.parsers
        stage.connection.on_message = lambda _: stage.connection.socket.pause_reading()
        await client.send(client_frame(BINARY, b"first"))
        await until(lambda: bool(stage.connection.messages))
        stage.connection.on_message = None
        size = len(parsers.shared.get_buffer(-1))
        await client.send(client_frame(BINARY, bytes(size - 8)))  # whole in one read, which it fills
        while not parsers.shared.has_grown:
            stage.connection.socket.resume_reading()
            await client.frame()
            await client.send(client_frame(BINARY, bytes(size - 8)))
        parsers.trim()
        assert not parsers.shared.has_grown
