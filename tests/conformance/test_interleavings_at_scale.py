"""The edge cases that are about size, time and versions: long absence, tokens, back-off, crowds, half an emoji."""

from collections.abc import Iterator

import pytest

from tests.conformance.classroom import VERSIONS, Classroom
from tests.server_process import ServerProcess

pytestmark = pytest.mark.xdist_group("conformance-scale")

MIB = 1024 * 1024
CROWD = 20
WORDS = "(client, doc) => doc.getText('body').toString()"
# Text that neither compresses into one run nor repeats: about `size` bytes in edits of 8 KiB.
FILL = """(client, doc, Y, {size}) => {
  let word = 1
  for (let written = 0; written < size; written += 8192) {
    let text = ''
    while (text.length < 8192) text += (word = word * 48271 % 2147483647).toString(36)
    doc.getText('body').insert(doc.getText('body').length, text.slice(0, 8192))
  }
}"""
SCATTER_DELETES = """(client, doc, Y, {count}) => {
  const text = doc.getText('body')
  text.insert(0, 'ab'.repeat(count))
  for (let at = 2 * count - 1; at > 0; at -= 2) text.delete(at, 1)
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that this module may kill."""
    with ServerProcess(tmp_path_factory.mktemp("scale"), {"drain_seconds": "0"}) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_08_a_month_offline_comes_as_one_frame_of_5_mib(
    classroom: Classroom, server: ServerProcess, version: str
) -> None:
    course = classroom.new_course()
    watcher = await classroom.joined(course)
    away = await classroom.join(course, version, connect=False)
    await away.run(FILL, transact=False, size=5 * MIB)

    await away.connect()

    await away.saved()
    await watcher.same_as(away)
    answers = await away.frames(direction="out", kind="sync-step2")
    assert answers[-1]["size"] > 5 * MIB
    report = await away.report()
    assert report["sockets"] == 1
    assert report["closes"] == []
    server.restart()
    late = await classroom.joined(course, version)
    await late.same_as(away)


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_09_token_that_ended_is_refused_at_the_upgrade_and_a_new_one_helps(
    classroom: Classroom, version: str
) -> None:
    course = classroom.new_course()
    client = await classroom.join(course, version, params={"token": "ended"})
    await client.wait("client => client.line.refusals.length >= 2")
    fresh = classroom.server.connect(classroom.owner, course).token

    # The first generation builds its URL once, the later ones from `params` at each attempt.
    await client.run(
        """({provider}, doc, Y, {token}) => {
          if (Object.getOwnPropertyDescriptor(provider, 'url')) provider.url = provider.url.replace('ended', token)
          else provider.params = {...provider.params, token}
        }""",
        token=fresh,
    )

    await client.synced()
    report = await client.report()
    assert {refusal["status"] for refusal in report["refusals"]} == {401}


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_10_refusal_is_never_an_accepted_socket_that_is_closed(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()

    client = await classroom.join(course, version, params={"token": "wrong"})

    # Only a refused upgrade makes every generation back off; an opened socket would reset the delay.
    await client.wait("client => client.line.refusals.length >= 3")
    report = await client.report()
    assert "connected" not in report["statuses"]
    assert {refusal["status"] for refusal in report["refusals"]} == {401}
    assert await client.run("client => client.provider.wsUnsuccessfulReconnects", transact=False) >= 3


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_11_asking_again_does_not_bring_everything_again(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    writer = await classroom.joined(course)
    await writer.run(FILL, transact=False, size=MIB)
    await writer.saved()
    asker = await classroom.joined(course, version, resyncInterval=50)
    await asker.same_as(writer)
    asked = "(client, {least}) => client.line.select({direction: 'in', kind: 'sync-step2'}).length >= least"
    await asker.wait(asked, least=3)
    before = sum(frame["size"] for frame in await asker.frames(direction="in"))

    await asker.wait(asked, least=13)

    again = sum(frame["size"] for frame in await asker.frames(direction="in")) - before
    assert again < MIB / 4
    await writer.run("(client, doc) => doc.getText('body').insert(0, 'still live')")
    await asker.same_as(writer)


async def test_case_12_R12_crowd_that_brings_nothing_new_writes_and_relays_nothing(classroom: Classroom) -> None:
    course = classroom.new_course()
    writer = await classroom.joined(course)
    await writer.run(SCATTER_DELETES, count=10_000)
    await writer.saved()
    idle = await classroom.joined(course)
    await idle.same_as(writer)
    crowd = [await classroom.joined(course) for _ in range(CROWD)]
    for client in crowd:
        await client.saved()
    relayed = len(await idle.frames(direction="in", kind="sync-update"))
    seq = (await crowd[0].frames(direction="in", kind="receipt"))[-1]["seq"]

    for client in crowd:
        await client.cut()
    for client in crowd:
        await client.wait("client => client.line.sockets === 2 && client.provider.synced && client.saved")

    assert len(await idle.frames(direction="in", kind="sync-update")) == relayed
    for client in crowd:
        assert (await client.frames(direction="out", kind="sync-step2"))[-1]["size"] > 10_000
        assert (await client.frames(direction="in", kind="receipt"))[-1]["seq"] == seq


async def test_case_13_generation_four_and_the_released_third_meet(classroom: Classroom, server: ServerProcess) -> None:
    course = classroom.new_course()
    four, three = await classroom.joined(course, "4", params={"ack": ""}), await classroom.joined(course, "3")
    await four.run("(client, doc) => { for (const n of [1, 2, 3]) doc.getMap('settings').set(`four${n}`, n) }")
    await three.wait("client => client.doc.getMap('settings').get('four3') === 3")

    server.kill()
    await four.wait("client => !client.provider.wsconnected")
    await three.wait("client => !client.provider.wsconnected")
    await four.run("(client, doc) => doc.getMap('settings').set('offline', 'by four')")
    await three.run("(client, doc) => doc.getMap('settings').set('offline3', 'by three')")
    server.start()

    await three.wait("client => client.doc.getMap('settings').get('offline') === 'by four'")
    await four.wait("client => client.doc.getMap('settings').get('offline3') === 'by three'")
    kinds = {frame["kind"] for frame in await four.frames(direction="in", socket="all")}
    assert kinds <= {"sync-step1", "sync-step2", "sync-update", "awareness"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_14_half_an_emoji_stays_as_every_yjs_client_has_it(
    classroom: Classroom, server: ServerProcess, version: str
) -> None:
    course = classroom.new_course()
    one, two = await classroom.joined(course, version), await classroom.joined(course, "3")
    await one.run("(client, doc) => doc.getText('body').insert(0, 'ab😀cd')")
    await two.same_as(one)

    await one.run("(client, doc) => doc.getText('body').delete(2, 1)")
    await one.run("(client, doc) => doc.getText('body').insert(2, 'x')")
    await two.same_as(one)
    await two.run("(client, doc) => doc.getText('body').insert(doc.getText('body').length, '👩‍🏫!')")
    await two.saved()
    await one.same_as(two)

    server.restart()
    late = await classroom.joined(course, version)
    await late.same_as(one, two)
    assert await late.run(WORDS) == await one.run(WORDS)
    assert (await one.run(WORDS)).endswith("cd👩‍🏫!")
