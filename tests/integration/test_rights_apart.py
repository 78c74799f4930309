"""Rights that change on one instance take effect on the open sockets of another, told over the bus."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterator

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from constructure_sync.protocol.messages import update_message
from tests.integration.test_rights import DEADLINE, edit, open_socket, wait_for_close, wait_for_receipt
from tests.server_process import ServerProcess
from tests.valkey import Valkey


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Return two instances on one machine that share a database file and a bus."""
    folder = tmp_path_factory.mktemp("apart")
    with Valkey() as valkey:
        shared = {
            "database_url": f"sqlite:///{folder / 'constructure.db'}",
            "bus_url": valkey.url,
            "secret_key": secrets.token_urlsafe(48),
            "close_delay_seconds": "0.2",
            "replica_workers": "1",
        }
        one, two = (ServerProcess(folder / name, shared) for name in ("one", "two"))
        with one, two:
            yield one, two


async def test_a_role_lowered_on_one_instance_is_lowered_on_the_other(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    one, two = pair
    owner, editor = one.register("owner"), one.register("editor")
    course = one.create_course(owner)
    one.add_member(owner, course, editor, "editor")
    socket = await open_socket(two, editor, course)
    await socket.send(update_message(edit("before")))
    await wait_for_receipt(socket)
    one.add_member(owner, course, editor, "viewer")

    code = 0
    async with asyncio.timeout(DEADLINE):  # the other instance looks by itself every 30 s only
        while not code:
            await socket.send(update_message(edit("after")))
            code = await closed_or_saved(socket)
    assert code == 4403


async def closed_or_saved(socket: ClientConnection) -> int:
    """Return the code that the socket was closed with; 0 once a write was acknowledged instead."""
    with contextlib.suppress(websockets.ConnectionClosedError):
        async for message in socket:
            if isinstance(message, bytes) and message[0] == 120:
                return 0
    return socket.close_code or 0


async def test_a_logout_on_one_instance_closes_the_sockets_of_the_other(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    one, two = pair
    owner = one.register("owner")
    course = one.create_course(owner)
    socket = await open_socket(two, owner, course)
    one.call("POST", "/api/v1/auth/logout", {}, owner.token)
    code, _ = await wait_for_close(socket)
    assert code == 4401
