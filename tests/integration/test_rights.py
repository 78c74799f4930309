"""Rights of sockets that are already open: what changes over REST takes effect on them, and nothing written is lost (R10)."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pycrdt
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from constructure_sync.protocol.messages import SyncStep1, decode_message, sync_step2, update_message
from tests.server_process import Account, ServerProcess

DEADLINE = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("rights"), {"close_delay_seconds": "0.2"}) as process:
        yield process


def edit(key: str) -> bytes:
    document: pycrdt.Doc[pycrdt.Map[str]] = pycrdt.Doc()
    document.get("nodes", type=pycrdt.Map)[key] = "written"
    return document.get_update()


async def open_socket(server: ServerProcess, account: Account, course: str) -> ClientConnection:
    grant = server.connect(account, course)
    socket = await websockets.connect(f"{grant.url}/{course}?token={grant.token}&ack=seq", max_size=None)
    first = await asyncio.wait_for(socket.recv(), DEADLINE)
    assert isinstance(first, bytes)
    assert isinstance(decode_message(first), SyncStep1)
    return socket


async def wait_for_receipt(socket: ClientConnection) -> None:
    async with asyncio.timeout(DEADLINE):
        async for message in socket:
            if isinstance(message, bytes) and message[0] == 120:
                return
    raise AssertionError("the socket ended without a receipt")


async def wait_for_close(socket: ClientConnection) -> tuple[int, list[bytes]]:
    messages: list[bytes] = []
    with contextlib.suppress(websockets.ConnectionClosedError):  # any code but 1000 and 1001
        async with asyncio.timeout(DEADLINE):
            async for message in socket:
                assert isinstance(message, bytes)
                messages.append(message)
    assert socket.close_code is not None
    return socket.close_code, messages


def rows(data: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(data / "constructure.db")) as database:
        return database.execute(query).fetchall()


async def test_R10_lowered_editor_is_refused_told_and_its_write_kept(server: ServerProcess) -> None:
    owner, editor = server.register("owner"), server.register("editor")
    course = server.create_course(owner)
    server.add_member(owner, course, editor, "editor")
    socket = await open_socket(server, editor, course)
    await socket.send(update_message(edit("before")))
    await wait_for_receipt(socket)

    server.add_member(owner, course, editor, "viewer")
    refused = edit("after")
    await socket.send(update_message(refused))
    code, messages = await wait_for_close(socket)

    told = [json.loads(message[3:]) for message in messages if message[:2] == b"\x02\x00"]
    assert code == 4403
    assert [reason["code"] for reason in told] == ["forbidden"]
    kept = rows(server.data_dir, "SELECT payload FROM stranded_changes")
    assert (refused,) in kept
    assert (refused,) not in rows(server.data_dir, "SELECT payload FROM document_updates")


async def test_R12_reader_whose_answer_only_deletes_stays(server: ServerProcess) -> None:
    owner, viewer = server.register("owner"), server.register("viewer")
    course = server.create_course(owner)
    server.add_member(owner, course, viewer, "viewer")
    socket = await open_socket(server, viewer, course)

    await socket.send(
        sync_step2(b"\x00\x01\x01\x01\x00\x02")
    )  # deletes the first two clocks of client 1: the seed's meta
    await socket.send(b"\x03")

    await wait_for_receipt(socket)
    await socket.close()
    assert rows(
        server.data_dir,
        f"SELECT max(seq) FROM document_updates JOIN documents ON documents.id = document_id "
        f"WHERE documents.name = '{course}'",
    ) == [(1,)]


async def test_logout_closes_the_sockets_of_that_sign_in(server: ServerProcess) -> None:
    owner = server.register("owner")
    course = server.create_course(owner)
    socket = await open_socket(server, owner, course)

    server.call("POST", "/api/v1/auth/logout", {}, owner.token)

    code, _ = await wait_for_close(socket)
    assert code == 4401
