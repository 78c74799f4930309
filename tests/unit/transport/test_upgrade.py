"""Who gets in, in which order it is decided, and that nothing is left of those who do not."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import pytest

from constructure_sync.rooms.socket import Socket
from constructure_sync.transport.acceptor import SocketLimits
from constructure_sync.transport.admission import Admitted, Connection, Refused, UpgradeRequest
from constructure_sync.transport.http import BoundedHttpProtocol
from tests.unit.transport.harness import (
    BINARY,
    DOCUMENT,
    FakeConnection,
    client_frame,
    on_both_loops,
    serving,
    until,
    upgrade_request,
)


class Gate:
    """An admission that waits until it is told what to say."""

    def __init__(self) -> None:
        self.waiting = 0
        self.done = 0
        self.outcome: asyncio.Future[Admitted | Refused] = asyncio.get_running_loop().create_future()

    async def __call__(self, request: UpgradeRequest) -> Admitted | Refused:
        self.waiting += 1
        try:
            return await asyncio.shield(self.outcome)
        finally:
            self.done += 1


def code_of(body: bytes) -> str:
    return str(json.loads(body)["code"])


@on_both_loops
async def test_an_admitted_socket_learns_what_was_asked() -> None:
    async with serving() as stage:
        client = await stage.connect(DOCUMENT + "?token=t&ack=seq")
        (request,) = stage.requests
        assert request == UpgradeRequest(
            DOCUMENT, {"ack": "seq"}, "https://courses.example", (), "127.0.0.1", "t", token_in_query=True
        )
        await client.send(client_frame(BINARY, b"hello"))
        assert await client.frame() == (BINARY, b"hello")


@on_both_loops
async def test_the_accept_key_and_the_token_subprotocol_are_answered() -> None:
    async with serving() as stage:
        client = await stage.tcp()
        await client.send(upgrade_request(DOCUMENT, "Sec-WebSocket-Protocol: other, constructure.token.abc"))
        status, headers = await client.head()
        assert status == 101
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert headers["sec-websocket-protocol"] == "constructure.token.abc"
        assert "sec-websocket-extensions" not in headers
        assert stage.requests[0].token == "abc"


@on_both_loops
async def test_cheap_checks_come_before_admission() -> None:
    async with serving(SocketLimits(max_sockets=2, max_sockets_per_address=1)) as stage:
        answers = [
            (await stage.refused(upgrade_request("/sync/nothing")), 404, "not_found"),
            (await stage.refused(upgrade_request(origin="https://evil.example")), 403, "origin"),
            (await stage.refused(upgrade_request(DOCUMENT, origin=None)), 403, "origin"),
            (await stage.refused(upgrade_request(DOCUMENT + "?a=1&a=1")), 400, "bad_query"),
            (await stage.refused(upgrade_request(drop="Sec-WebSocket-Key")), 400, "bad_upgrade"),
        ]
        await stage.connect()
        answers.append((await stage.refused(upgrade_request()), 429, "too_many_connections"))
        stage.acceptor.draining = True
        answers.append((await stage.refused(upgrade_request()), 503, "restarting"))
        answers.append((await stage.refused(upgrade_request("/sync/nothing")), 404, "not_found"))
        for (status, headers, body), expected, code in answers:
            assert (status, code_of(body)) == (expected, code)
            assert headers["content-type"] == "application/problem+json"
            assert headers["connection"] == "close"
        assert len(stage.requests) == 1


@on_both_loops
async def test_a_full_instance_says_503_and_takes_others_when_one_has_left() -> None:
    async with serving(SocketLimits(max_sockets=1)) as stage:
        first = await stage.connect()
        status, _, body = await stage.refused(upgrade_request())
        assert (status, code_of(body)) == (503, "full")
        await first.leave()
        await until(lambda: stage.acceptor.held == 0)
        await stage.connect()


@on_both_loops
async def test_what_admission_says_is_answered() -> None:
    async def refuse(request: UpgradeRequest) -> Admitted | Refused:
        return Refused(401, "token_expired", "The token has expired.")

    async with serving(admit=refuse) as stage:
        status, _, body = await stage.refused(upgrade_request())
        assert (status, code_of(body)) == (401, "token_expired")


@on_both_loops
async def test_admission_that_takes_too_long_is_503() -> None:
    gate = Gate()
    async with serving(SocketLimits(admission_timeout=0.05), gate) as stage:
        status, _, body = await stage.refused(upgrade_request())
        assert (status, code_of(body)) == (503, "admission_timeout")
        assert (gate.waiting, gate.done) == (1, 1)


@on_both_loops
async def test_admission_that_fails_is_500_and_says_nothing() -> None:
    async def fail(request: UpgradeRequest) -> Admitted | Refused:
        raise RuntimeError("a secret")

    async with serving(admit=fail) as stage:
        status, _, body = await stage.refused(upgrade_request())
        assert (status, code_of(body)) == (500, "internal")
        assert b"secret" not in body


@pytest.mark.parametrize("outcome", ["admitted", "refused", "never"])
@on_both_loops
async def test_a_peer_that_vanishes_while_it_is_decided_leaves_nothing(outcome: str) -> None:
    gate = Gate()
    async with serving(SocketLimits(admission_timeout=0.2), gate) as stage:
        client = await stage.tcp()
        await client.send(upgrade_request())
        await until(lambda: gate.waiting == 1)
        assert stage.acceptor.held == 1
        await client.leave()
        if outcome == "admitted":
            gate.outcome.set_result(Admitted(stage.open))
        elif outcome == "refused":
            gate.outcome.set_result(Refused(401, "unauthenticated", "No."))
        await until(lambda: stage.acceptor.held == 0)
        assert gate.done == 1
        assert len(stage.connections) <= (outcome == "admitted")


@on_both_loops
async def test_shutdown_while_it_is_decided_answers_503() -> None:
    gate = Gate()
    async with serving(admit=gate) as stage:
        client = await stage.tcp()
        await client.send(upgrade_request())
        await until(lambda: gate.waiting == 1)
        (pending,) = stage.server.server_state.connections
        pending.shutdown()
        status, _ = await client.head()
        assert status == 503
        assert await client.at_end()
        assert gate.done == 1


@on_both_loops
async def test_a_drain_that_begins_while_it_is_decided_refuses() -> None:
    gate = Gate()
    async with serving(admit=gate) as stage:
        client = await stage.tcp()
        await client.send(upgrade_request())
        await until(lambda: gate.waiting == 1)
        stage.acceptor.draining = True
        gate.outcome.set_result(Admitted(stage.open))
        status, _ = await client.head()
        assert status == 503
        assert not stage.connections


@on_both_loops
async def test_frames_sent_while_it_is_decided_are_not_lost() -> None:
    gate = Gate()
    async with serving(admit=gate) as stage:
        client = await stage.tcp()
        await client.send(upgrade_request())
        await until(lambda: gate.waiting == 1)
        await client.send(client_frame(BINARY, b"early"))
        gate.outcome.set_result(Admitted(stage.open))
        status, _ = await client.head()
        assert status == 101
        assert await client.frame() == (BINARY, b"early")


@on_both_loops
async def test_a_connection_that_cannot_be_made_is_closed_with_1011() -> None:
    def fail(socket: Socket) -> Connection:
        raise RuntimeError("no")

    async with serving() as stage:
        stage.make = fail
        client = await stage.connect()
        assert await client.close_code() == 1011
        await client.leave()


@on_both_loops
async def test_a_connection_may_write_and_close_while_it_is_made() -> None:
    def hello(socket: Socket) -> Connection:
        socket.write(b"\x82\x02hi")
        socket.close(4404, "deleted")
        return FakeConnection(socket)

    async with serving() as stage:
        stage.make = hello
        client = await stage.connect()
        assert await client.frame() == (BINARY, b"hi")
        assert await client.close_code() == 4404


@on_both_loops
async def test_rest_is_served_on_the_same_port_and_kept_alive() -> None:
    async with serving() as stage:
        client = await stage.tcp()
        for _ in range(2):
            await client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            status, _ = await client.head()
            assert status == 204


class Impatient(BoundedHttpProtocol):
    head_timeout = 0.1


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "])
@on_both_loops
async def test_a_request_head_that_does_not_end_is_cut_off(sent: bytes) -> None:
    async with serving(http=Impatient) as stage:
        client = await stage.tcp()
        await client.send(sent)
        assert await client.at_end()


@on_both_loops
async def test_a_request_head_that_is_too_long_is_refused() -> None:
    async with serving() as stage:
        client = await stage.tcp()
        await client.send(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 40_000)
        status, _ = await client.head()
        assert status == 400
        assert await client.at_end()


@on_both_loops
async def test_a_head_in_time_does_not_end_what_follows() -> None:
    async with serving(http=Impatient) as stage:
        client = await stage.connect()
        gone = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(Impatient.head_timeout * 2, gone.set_result, None)
        await gone
        await client.send(client_frame(BINARY, b"still here"))
        assert await client.frame() == (BINARY, b"still here")


@on_both_loops
async def test_no_token_is_logged() -> None:
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Collect(0)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(0)
    try:
        async with serving() as stage:
            path = DOCUMENT + "?token=verysecret"
            client = await stage.connect(path, "Sec-WebSocket-Protocol: constructure.token.verysecret")
            await client.send(b"\xff" * 20)
            await client.close_code()
            await stage.refused(upgrade_request(path + "&b=verysecret&b=1"))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert messages
    assert not [message for message in messages if "verysecret" in message]


def test_the_parser_is_built_on_the_release_it_was_tried_with() -> None:
    """picows takes fifteen arguments by position; another release may order them otherwise."""
    assert version("picows") == "2.3.1"


@on_both_loops
async def test_a_socket_is_not_opened_behind_an_unanswered_request(caplog: pytest.LogCaptureFixture) -> None:
    get = b"GET / HTTP/1.1\r\nHost: courses.example\r\n\r\n"
    async with serving() as stage:
        for earlier in (1, 2, 5):
            status, _, _ = await stage.refused(get * earlier + upgrade_request())
            assert status == 400
        client = await stage.tcp()
        await client.send(get)
        assert (await client.head())[0] == 204
        await client.send(upgrade_request())
        assert (await client.head())[0] == 101
        await client.send(client_frame(BINARY, b"a"))
        assert await client.frame() == (BINARY, b"a")
    assert len(stage.requests) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@on_both_loops
async def test_several_requests_of_a_connection_that_ended_are_answered_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, goes_on, ended = 0, asyncio.Event(), 0

    async def slow(scope: object, receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        nonlocal begun, ended
        begun += 1
        await goes_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        ended += 1

    async with serving() as stage:
        stage.server.config.loaded_app = slow
        client = await stage.tcp()
        await client.send(b"GET / HTTP/1.1\r\nHost: courses.example\r\n\r\n" * 3 + b"no request\r\n\r\n")
        assert await client.at_end()
        assert begun == 1
        goes_on.set()
        await until(lambda: ended == 1)
        assert begun == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
