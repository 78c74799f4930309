"""Who may write: the server holds the role against every message that carries a write."""

import json

import pytest

from tests.conformance.classroom import VERSIONS, Classroom
from tests.conformance.node_client import YjsClient

pytestmark = pytest.mark.xdist_group("conformance-roles")

TYPE = "(client, doc, Y, {value}) => doc.getText('body').insert(0, value)"
WORDS = "(client, doc) => doc.getText('body').toString()"
SENT_AWAY = "(client, {code}) => client.line.closes.some(close => close.code === code)"
STOPPED = "client => client.events.some(({event}) => event === 'closed')"
AUTH_DENIED = "0200"
READ_ONLY = ("viewer", "commenter")


async def told_why(reader: YjsClient) -> list[str]:
    """Return the codes of the refusals that the first socket was told before it was closed."""
    frames = await reader.frames(direction="in", kind="auth", socket=1)
    assert all(frame["hex"].startswith(AUTH_DENIED) for frame in frames)
    return [json.loads(bytes.fromhex(frame["hex"])[3:])["code"] for frame in frames]


@pytest.mark.parametrize("role", READ_ONLY)
@pytest.mark.parametrize("version", VERSIONS)
async def test_R10_update_of_a_reader_reaches_nobody_and_ends_the_connection(
    classroom: Classroom, version: str, role: str
) -> None:
    course = classroom.new_course()
    editor = await classroom.joined(course)
    reader = await classroom.joined(course, version, account=classroom.member(course, role))

    await reader.run(TYPE, value="forbidden ")

    await reader.wait(SENT_AWAY, code=4403)
    assert await told_why(reader) == ["forbidden"]
    await reader.disconnect()
    await editor.run(TYPE, value="allowed ")
    await editor.saved()
    late = await classroom.joined(course)
    assert await late.run(WORDS) == await editor.run(WORDS) == "allowed "


@pytest.mark.parametrize("role", READ_ONLY)
@pytest.mark.parametrize("version", VERSIONS)
async def test_R10_offline_work_of_a_reader_reaches_nobody_and_ends_the_connection(
    classroom: Classroom, version: str, role: str
) -> None:
    course = classroom.new_course()
    editor = await classroom.joined(course)
    reader = await classroom.join(course, version, account=classroom.member(course, role), connect=False)
    await reader.run(TYPE, value="forbidden ")

    await reader.connect()

    await reader.wait(SENT_AWAY, code=4403)
    assert await reader.frames(direction="out", kind="sync-update", socket="all") == []
    await reader.disconnect()
    await editor.run(TYPE, value="allowed ")
    await editor.saved()
    late = await classroom.joined(course)
    assert await late.run(WORDS) == await editor.run(WORDS) == "allowed "


async def test_newest_provider_stops_for_good_when_it_may_not_write(classroom: Classroom) -> None:
    course = classroom.new_course()
    reader = await classroom.joined(course, "3", account=classroom.member(course, "viewer"))

    await reader.run(TYPE, value="forbidden")

    await reader.wait(STOPPED)
    report = await reader.report()
    assert report["closes"][-1]["code"] == 4403
    assert report["closes"][-1]["reason"]
    assert report["sockets"] == 1


async def test_reader_without_changes_follows_the_work_of_others(classroom: Classroom) -> None:
    course = classroom.new_course()
    editor = await classroom.joined(course)
    reader = await classroom.joined(course, account=classroom.member(course, "viewer"))

    await editor.run(TYPE, value="read this")

    await reader.same_as(editor)
    await reader.disconnect()
    await reader.connect()
    await editor.run(TYPE, value="and ")
    await reader.same_as(editor)
    assert [close["code"] for close in (await reader.report())["closes"] if close["code"] >= 4000] == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_stranger_is_refused_before_the_socket_opens(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    stranger = classroom.server.register("stranger")

    client = await classroom.join(course, version, params={"token": stranger.token})

    await client.wait("client => client.line.refusals.length > 0")
    report = await client.report()
    assert report["refusals"][0]["status"] in {403, 404}
    assert "connected" not in report["statuses"]


async def test_access_token_opens_the_socket_as_well(classroom: Classroom) -> None:
    course = classroom.new_course("By access token")

    client = await classroom.joined(course, params={"token": classroom.owner.token})

    assert await client.run("(client, doc) => doc.getText('title').toString()") == "By access token"
