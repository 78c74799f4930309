"""Large documents over thin lines, and clients that say nothing for long."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conformance.classroom import VERSIONS, Classroom
from tests.conformance.node_client import NodeDriver
from tests.conformance.slow_line import slow_line
from tests.conformance.updates import APPLY, COURSE
from tests.server_process import ServerProcess

pytestmark = pytest.mark.xdist_group("conformance-size")

MIB = 1024 * 1024
SEGMENT_BYTES = 256 * 1024
HEADER_BYTES = 1024
# Time runs this much faster for the clients: their watchdog of 30 s bites after 1.5 s, the server keeps step.
CLOCK_SPEED = 20
WATCHDOG_SECONDS = 30 / CLOCK_SPEED
KEEPALIVE_SECONDS = 15 / CLOCK_SPEED
FILL = """(client, doc, Y, {size}) => {
  let word = 1
  for (let written = 0; written < size; written += 65536) {
    let text = ''
    while (text.length < 65536) text += (word = word * 48271 % 2147483647).toString(36)
    doc.getText('body').insert(doc.getText('body').length, text.slice(0, 65536))
  }
}"""
ALIVE_FOR = """(client, {seconds}) => {
  client.since ??= Date.now()
  setTimeout(() => client.line.changed(), 500)
  return !client.provider.wsconnected || Date.now() - client.since > seconds * 1000
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose keepalive runs as fast as the clients' clock."""
    settings = {"drain_seconds": "0", "keepalive_seconds": str(KEEPALIVE_SECONDS)}
    with ServerProcess(tmp_path_factory.mktemp("size"), settings) as running:
        yield running


@pytest.fixture(scope="module")
async def driver() -> AsyncIterator[NodeDriver]:
    running = NodeDriver(clock_speed=CLOCK_SPEED)
    await running.start()
    yield running
    await running.stop()


@pytest.mark.parametrize("version", VERSIONS)
async def test_silent_client_is_still_connected_after_75_seconds(classroom: Classroom, version: str) -> None:
    client = await classroom.joined(classroom.new_course(), version, presence=None)

    await client.wait(ALIVE_FOR, seconds=75)

    report = await client.report()
    assert report["sockets"] == 1
    assert report["connected"]
    empty = [frame["hex"] for frame in await client.frames(direction="in", kind="awareness")]
    assert empty
    assert set(empty) == {"010100"}


async def test_ten_mib_arrive_over_a_thin_line_before_the_watchdog_bites(
    classroom: Classroom, server: ServerProcess
) -> None:
    course = classroom.new_course()
    writer = await classroom.joined(course)
    await writer.run(FILL, transact=False, size=10 * MIB)
    await writer.saved()

    # Slow enough that a single frame with everything would take twice as long as the client waits for any frame.
    async with slow_line(server.port, int(10 * MIB / (2 * WATCHDOG_SECONDS))) as port:
        reader = await classroom.join(course, through=port)
        await reader.same_as(writer, timeout=30)

        report = await reader.report()
        assert report["sockets"] == 1
        assert report["closes"] == []
        received = [frame["size"] for frame in await reader.frames(direction="in")]
        assert max(received) <= SEGMENT_BYTES + HEADER_BYTES
        await classroom.leave(reader)


@pytest.mark.parametrize("version", VERSIONS)
async def test_course_of_2000_nodes_is_loaded_edited_and_found_after_a_restart(
    classroom: Classroom, server: ServerProcess, version: str
) -> None:
    course = classroom.new_course()
    update = await classroom.driver.compute(COURSE, nodes=2000)
    writer = await classroom.joined(course, version)

    await writer.run(APPLY, update=update)
    await writer.saved()
    reader = await classroom.joined(course, version)
    await reader.same_as(writer)
    await reader.run("(client, doc) => doc.getMap('nodes').get('n00000000000').get('title').insert(0, 'First: ')")
    await writer.run("(client, doc) => doc.getMap('nodes').get('n00000000001').set('status', 'ready')")
    await writer.same_as(reader)
    await reader.saved()
    await writer.saved()
    server.restart()

    late = await classroom.joined(course, version)
    await late.same_as(writer)
    assert await late.run("(client, doc) => doc.getMap('nodes').size") == 2000
    assert await late.run("(client, doc) => doc.getMap('edges').size") == 1999


@pytest.mark.long
async def test_silent_clients_are_still_connected_after_75_true_seconds(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    driver = NodeDriver()
    await driver.start()
    with ServerProcess(tmp_path_factory.mktemp("silence")) as server:
        classroom = Classroom(server, driver, server.register("owner"))
        course = classroom.new_course()
        clients = [await classroom.joined(course, version, presence=None) for version in VERSIONS]

        for client in clients:
            await client.wait(ALIVE_FOR, seconds=75, timeout=90)

        for client in clients:
            report = await client.report()
            assert report["sockets"] == 1
            assert report["connected"]
        await classroom.close()
    await driver.stop()
