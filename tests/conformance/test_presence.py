"""Who is there: on join, leave, kill and blip, as stock clients show it."""

from collections.abc import Iterator

import pytest

from tests.conformance.classroom import VERSIONS, Classroom
from tests.conformance.node_client import YjsClient
from tests.server_process import ServerProcess

pytestmark = pytest.mark.xdist_group("conformance-presence")

# Stock clients renew their presence every 15 s and forget others after 30 s: what comes sooner, the server brought.
AT_ONCE = 6.0
PRESENCE_OF = "(client, doc, Y, {id}) => client.awareness.getStates().get(id) ?? null"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that this module may kill."""
    with ServerProcess(tmp_path_factory.mktemp("presence"), {"drain_seconds": "0"}) as running:
        yield running


async def presence_of(other: YjsClient, at: YjsClient) -> object:
    """Return the other's state as `at` knows it; None when absent."""
    return await at.run(PRESENCE_OF, id=other.client_id)


@pytest.mark.parametrize("version", VERSIONS)
async def test_everyone_present_is_shown_to_who_joins(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    first = await classroom.joined(course, version, presence={"cursor": [1, 2]})
    second = await classroom.joined(course, version, presence={"cursor": [3, 4]})

    await first.sees(second, timeout=AT_ONCE)
    await second.sees(first, timeout=AT_ONCE)
    third = await classroom.joined(course, version)

    await third.sees(first, second, timeout=AT_ONCE)
    shown = await presence_of(first, third)
    assert isinstance(shown, dict)
    assert shown["cursor"] == [1, 2]


async def test_server_says_who_the_user_is_and_leaves_the_rest_to_the_client(classroom: Classroom) -> None:
    course = classroom.new_course()
    watcher = await classroom.joined(course)
    account = classroom.member(course, "editor")
    forged = {"user": {"id": "somebody", "name": "Somebody Else", "color": "#30bced"}, "cursor": None}

    editor = await classroom.joined(course, account=account, presence=forged)

    await watcher.sees(editor, timeout=AT_ONCE)
    expected = {"user": {"id": account.user_id, "name": account.name, "color": "#30bced"}, "cursor": None}
    assert await presence_of(editor, watcher) == expected


async def test_viewers_are_present_too(classroom: Classroom) -> None:
    course = classroom.new_course()
    watcher = await classroom.joined(course)

    viewer = await classroom.joined(course, account=classroom.member(course, "viewer"))

    await watcher.sees(viewer, timeout=AT_ONCE)


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_leaves_is_gone_at_once(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    watcher, leaver = await classroom.joined(course, version), await classroom.joined(course, version)
    await watcher.sees(leaver)

    await leaver.disconnect()

    await watcher.sees_gone(leaver, timeout=AT_ONCE)


@pytest.mark.parametrize("version", VERSIONS)
async def test_R8_whose_socket_is_destroyed_is_gone_at_once(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    watcher, cut = await classroom.joined(course, version), await classroom.joined(course, version)
    await watcher.sees(cut)

    await cut.run("client => { client.provider.shouldConnect = false }")
    await cut.cut()

    await watcher.sees_gone(cut, timeout=AT_ONCE)
    late = await classroom.joined(course, version)
    await late.sees(watcher, timeout=AT_ONCE)
    assert await presence_of(cut, late) is None


async def test_client_that_hides_itself_is_gone_and_may_return(classroom: Classroom) -> None:
    course = classroom.new_course()
    watcher, shy = await classroom.joined(course), await classroom.joined(course)
    await watcher.sees(shy)

    await shy.set_presence(None)
    await watcher.sees_gone(shy, timeout=AT_ONCE)
    await shy.set_presence({"back": True})

    await watcher.sees(shy, timeout=AT_ONCE)


@pytest.mark.parametrize("version", VERSIONS)
async def test_everyone_is_seen_again_after_a_kill(classroom: Classroom, server: ServerProcess, version: str) -> None:
    course = classroom.new_course()
    one, two = await classroom.joined(course, version), await classroom.joined(course, version)
    await one.sees(two)
    await two.sees(one)

    server.restart()
    await one.wait("client => client.line.sockets > 1 && client.provider.synced")
    await two.wait("client => client.line.sockets > 1 && client.provider.synced")

    await one.sees(two, timeout=AT_ONCE)
    await two.sees(one, timeout=AT_ONCE)


async def test_R8_newest_socket_of_a_user_owns_its_presence(classroom: Classroom) -> None:
    course = classroom.new_course()
    watcher = await classroom.joined(course)
    old = await classroom.joined(course, presence={"which": "same"})
    await watcher.sees(old)
    # A half-open connection: its client is gone from it, the server does not know yet.
    await old.run("client => { client.line.muted = true }")

    new = await classroom.joined(course, share=old.name)
    await new.set_presence({"which": "newer"})
    await watcher.wait(
        "(client, {id}) => client.awareness.getStates().get(id)?.which === 'newer'", id=old.client_id, timeout=AT_ONCE
    )
    await old.run("client => { client.provider.shouldConnect = false }")
    await old.cut()
    await old.wait("client => !client.provider.wsconnected")

    # A later joiner is answered after the server has seen the old socket's end.
    late = await classroom.joined(course)
    await late.sees(old, timeout=AT_ONCE)
    assert await presence_of(old, watcher) is not None
    removed = await watcher.run("client => client.events.flatMap(event => event.removed ?? [])")
    assert old.client_id not in removed
