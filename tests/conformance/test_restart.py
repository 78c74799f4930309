"""The server is killed or sent away under its clients, and nothing of theirs is lost."""

from collections.abc import Iterator

import pytest

from tests.conformance.classroom import VERSIONS, Classroom
from tests.server_process import ServerProcess

pytestmark = pytest.mark.xdist_group("conformance-restart")

TYPE = "(client, doc, Y, {value}) => doc.getText('body').insert(doc.getText('body').length, value)"
WORDS = "(client, doc) => doc.getText('body').toString()"
AWAY = "client => !client.provider.wsconnected"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that this module may kill, and that sends its clients away at once when told to stop."""
    with ServerProcess(tmp_path_factory.mktemp("restart"), {"drain_seconds": "0"}) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS)
async def test_clients_reconnect_after_sigkill_and_nothing_is_lost(
    classroom: Classroom, server: ServerProcess, version: str
) -> None:
    course = classroom.new_course()
    one, two = await classroom.joined(course, version), await classroom.joined(course, version)
    await one.run(TYPE, value="saved ")
    await one.saved()

    await two.run(TYPE, value="in flight ")
    server.kill()
    await one.wait(AWAY)
    await two.wait(AWAY)
    await one.run(TYPE, value="one alone ")
    await two.run(TYPE, value="two alone ")
    server.start()

    await one.saved()
    await two.saved()
    await one.same_as(two)
    late = await classroom.joined(course, version)
    await late.same_as(one)
    assert sorted((await late.run(WORDS)).split()) == sorted(["saved", "in", "flight", "one", "alone", "two", "alone"])


async def test_R1_write_with_a_receipt_is_there_after_sigkill_before_any_client_returns(
    classroom: Classroom, server: ServerProcess
) -> None:
    course = classroom.new_course()
    writer = await classroom.joined(course)
    for number in range(50):
        await writer.run(TYPE, value=f"{number} ")
    await writer.saved()

    server.kill()
    await classroom.leave(writer)
    server.start()

    late = await classroom.joined(course)
    assert (await late.run(WORDS)).split() == [str(number) for number in range(50)]


async def test_everything_is_there_after_three_restarts_with_work_between(
    classroom: Classroom, server: ServerProcess
) -> None:
    course = classroom.new_course()
    writer = await classroom.joined(course)

    for number in range(3):
        await writer.run(TYPE, value=f"before{number} ")
        server.kill()
        await writer.wait(AWAY)
        await writer.run(TYPE, value=f"after{number} ")
        server.start()
        await writer.saved()

    late = await classroom.joined(course)
    await late.same_as(writer)
    assert (await late.run(WORDS)).split() == [f"{when}{n}" for n in range(3) for when in ("before", "after")]


@pytest.mark.parametrize("version", VERSIONS)
async def test_orderly_stop_sends_clients_away_and_they_return(
    classroom: Classroom, server: ServerProcess, version: str
) -> None:
    course = classroom.new_course()
    client = await classroom.joined(course, version)
    await client.run(TYPE, value="kept")

    status = server.stop()
    await client.wait(AWAY)
    server.start()

    await client.saved()
    late = await classroom.joined(course, version)
    assert await late.run(WORDS) == "kept"
    assert status == 0
    closes = (await client.report())["closes"]
    assert closes[0]["code"] == 1012
