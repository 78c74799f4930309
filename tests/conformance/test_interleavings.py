"""How stock clients behave at the edges, case by case; what each would show if the server had it wrong."""

from collections.abc import Iterator

import pytest

from tests.conformance.classroom import VERSIONS, Classroom
from tests.conformance.node_client import YjsClient
from tests.conformance.updates import APPLY, APPLY_UNSENT, EDITS_OF_MANY_AUTHORS, EDITS_OF_ONE_AUTHOR
from tests.server_process import ServerProcess

pytestmark = pytest.mark.xdist_group("conformance-interleavings")

AT_ONCE = 6.0
SET = "(client, doc, Y, {key, value}) => doc.getMap('settings').set(key, value)"
GET = "(client, doc, Y, {key}) => doc.getMap('settings').get(key) ?? null"
HAS = "(client, {key}) => client.doc.getMap('settings').has(key)"
TYPE = "(client, doc, Y, {value}) => doc.getText('body').insert(doc.getText('body').length, value)"
NOTHING = "0001020000"  # SyncStep2 with the empty update
WORDS = "(client, doc) => doc.getText('body').toString()"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that this module may kill."""
    with ServerProcess(tmp_path_factory.mktemp("interleavings"), {"drain_seconds": "0"}) as running:
        yield running


async def never_sent_away(client: YjsClient) -> bool:
    """Whether the server has closed none of the client's sockets with a code of its own."""
    return not [close for close in (await client.report())["closes"] if close["code"] >= 4000]


async def questions_to(client: YjsClient) -> int:
    """Return how often the server asked on the newest socket for what the client has."""
    return len(await client.frames(direction="in", kind="sync-step1"))


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_01_pending_structs_travel_and_the_good_edits_with_them_are_taken(
    classroom: Classroom, server: ServerProcess, version: str
) -> None:
    course = classroom.new_course()
    first, second = await classroom.driver.compute(EDITS_OF_ONE_AUTHOR, clientId=77, words=["first", "second"])
    watcher = await classroom.joined(course)
    holder = await classroom.join(course, version, indexeddb=f"pending-{course}", connect=False)
    await holder.wait("client => client.stored")
    await holder.run(APPLY_UNSENT, update=second)
    await holder.run(SET, key="mine", value="good")
    assert (await holder.report())["pending"]
    await classroom.leave(holder)

    holder = await classroom.join(course, version, indexeddb=f"pending-{course}")
    await holder.saved()
    await watcher.wait(HAS, key="mine")
    await holder.run(SET, key="later", value="good too")
    await holder.saved()
    await watcher.wait(HAS, key="later")

    # The server may ask once for what is missing; asking again would bring the same, for ever.
    assert await questions_to(holder) <= 2
    assert await never_sent_away(holder)
    server.restart()
    fresh = await classroom.joined(course)
    for client in (watcher, fresh):
        report = await client.report()
        assert not report["pending"]
        assert "77" not in report["stateVector"]

    author = await classroom.join(course, version, connect=False)
    await author.run(APPLY, update=first)
    await author.run(APPLY, update=second)
    await author.connect()
    await holder.wait("client => client.doc.store.pendingStructs === null")
    await fresh.same_as(author, holder, watcher)


async def test_case_01_lost_frame_of_another_does_not_stop_the_own_edits(classroom: Classroom) -> None:
    course = classroom.new_course()
    author, loser = await classroom.joined(course, presence=None), await classroom.joined(course, presence=None)
    await author.run(TYPE, value="start ")
    await loser.same_as(author)

    await loser.drop_next()
    await author.run(TYPE, value="lost ")
    await author.saved()
    await loser.wait("client => client.line.dropNext === 0")
    await author.run(TYPE, value="found ")
    await loser.wait("client => client.doc.store.pendingStructs !== null")
    await loser.run(SET, key="own", value=1)
    await author.wait(HAS, key="own")

    await loser.cut()
    await loser.wait("client => client.line.sockets === 2 && client.provider.synced")
    await loser.same_as(author)
    assert await author.run(WORDS) == "start lost found "


async def test_case_02_gap_inside_a_section_is_cut_and_never_stored(
    classroom: Classroom, server: ServerProcess
) -> None:
    course = classroom.new_course()
    edits = await classroom.driver.compute(EDITS_OF_ONE_AUTHOR, clientId=78, words=["zero", "one", "two"])
    watcher = await classroom.joined(course)
    holder = await classroom.join(course, connect=False)
    await holder.run(APPLY_UNSENT, update=edits[0])
    await holder.run(APPLY_UNSENT, update=edits[2])

    await holder.connect()

    await holder.saved()
    await watcher.wait(HAS, key="zero")
    server.restart()
    fresh = await classroom.joined(course)
    report = await fresh.report()
    assert not report["pending"]
    assert report["stateVector"]["78"] == 1
    assert await fresh.run(GET, key="two") is None
    assert not (await watcher.report())["pending"]
    author = await classroom.join(course, connect=False)
    for edit in edits:
        await author.run(APPLY, update=edit)
    await author.connect()
    await fresh.same_as(author, holder)


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_03_typing_while_reconnecting_is_no_reason_to_ask_twice(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    watcher = await classroom.joined(course)
    # On `connected` these edits overtake the answer to the server's question: they need the offline ones.
    typist = await classroom.join(
        course,
        version,
        connect=False,
        onConnected="""(client, doc) => {
          for (const word of ['b', 'c', 'd']) doc.getText('body').insert(doc.getText('body').length, word)
        }""",
    )
    await typist.run(TYPE, value="a")

    await typist.connect()

    await typist.saved()
    await watcher.same_as(typist)
    assert await watcher.run(WORDS) == "abcd"
    sent = [frame["kind"] for frame in await typist.frames(direction="out")]
    assert sent.index("sync-update") < sent.index("sync-step2")
    assert await questions_to(typist) == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_04_neighbour_conveys_what_its_author_never_got_saved(
    classroom: Classroom, server: ServerProcess, version: str
) -> None:
    course = classroom.new_course()
    author, neighbour = await classroom.joined(course, version), await classroom.joined(course, version)
    await author.run(TYPE, value="known ")
    await neighbour.same_as(author)
    server.kill()
    await author.wait("client => !client.provider.wsconnected")
    await neighbour.wait("client => !client.provider.wsconnected")
    await author.run(TYPE, value="relayed but not saved")
    unsaved = await author.run("(client, doc, Y) => Y.encodeStateAsUpdate(doc)")
    await neighbour.run(APPLY_UNSENT, update=unsaved)
    await classroom.leave(author)

    server.start()

    await neighbour.saved()
    fresh = await classroom.joined(course, version)
    await fresh.same_as(neighbour)
    assert await fresh.run(WORDS) == "known relayed but not saved"
    assert await never_sent_away(neighbour)


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_04_R15_whole_stored_document_with_a_hundred_ids_comes_as_one_update(
    classroom: Classroom, version: str
) -> None:
    course = classroom.new_course()
    update = await classroom.driver.compute(EDITS_OF_MANY_AUTHORS, count=100)
    client, watcher = await classroom.joined(course, version), await classroom.joined(course)

    await client.run(APPLY, update=update)

    await client.saved()
    await watcher.same_as(client)
    assert len(await client.frames(direction="out", kind="sync-update")) == 1
    assert await watcher.run("(client, doc) => doc.getMap('settings').size") == 100
    assert await never_sent_away(client)


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_05_R12_viewer_that_derived_a_delete_is_not_sent_away(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    one, two = await classroom.join(course, connect=False), await classroom.join(course, connect=False)
    viewer = await classroom.joined(course, version, account=classroom.member(course, "viewer"))
    await one.run(SET, key="level", value="easy")
    await two.run(SET, key="level", value="hard")
    await one.connect()
    await one.saved()
    await two.connect()
    await two.saved()
    await viewer.same_as(one, two)
    deleted = (await viewer.report())["deleteSet"]

    await viewer.disconnect()
    await viewer.connect()
    await viewer.synced()

    # The losing value is deleted in every replica, though no update ever said so.
    assert len(deleted) == 1
    answer = await viewer.frames(direction="out", kind="sync-step2")
    assert answer[-1]["hex"] != NOTHING
    await one.run(SET, key="after", value="seen")
    await viewer.wait(HAS, key="after")
    await viewer.same_as(one)
    assert await never_sent_away(viewer)


async def test_case_05_R12_viewer_whose_yjs_cleans_up_formats_stays(classroom: Classroom) -> None:
    course = classroom.new_course()
    one, two = await classroom.joined(course), await classroom.joined(course)
    viewer = await classroom.joined(course, account=classroom.member(course, "viewer"))
    await one.run(TYPE, value="words to be made bold by both")
    await two.same_as(one)
    await viewer.run(WORDS)
    await one.disconnect()
    await two.disconnect()
    # The same range twice: every Yjs that merges both deletes the redundant marks by itself, and says so.
    for client in (one, two):
        await client.run("(client, doc) => doc.getText('body').format(0, 12, {bold: true})")

    await one.connect()
    await two.connect()

    await viewer.wait("client => client.line.select({direction: 'out', kind: 'sync-update'}).length > 0")
    await one.same_as(two)
    await one.run(TYPE, value=" and more")
    await viewer.wait("client => client.doc.getText('body').toString().endsWith(' and more')")
    assert await never_sent_away(viewer)
    assert len(await viewer.frames(direction="out", kind="sync-step2", socket="all")) == 1


async def test_case_05_R12_delete_of_a_writer_is_taken_once_and_then_known(classroom: Classroom) -> None:
    course = classroom.new_course()
    one, two = await classroom.join(course, connect=False), await classroom.join(course, connect=False)
    await one.run(SET, key="level", value="easy")
    await two.run(SET, key="level", value="hard")
    for client in (one, two):
        await client.connect()
        await client.saved()
    await one.same_as(two)
    for client in (one, two):
        await client.disconnect()
        await client.connect()
        await client.saved()
    seq = (await two.frames(direction="in", kind="receipt"))[-1]["seq"]

    for client in (one, two):
        await client.disconnect()
        await client.connect()
        await client.saved()

    assert (await two.frames(direction="in", kind="receipt"))[-1]["seq"] == seq


async def test_case_06_echoes_of_presence_are_not_passed_on(classroom: Classroom) -> None:
    course = classroom.new_course()
    clients = [await classroom.joined(course) for _ in range(5)]
    for client in clients:
        await client.sees(*clients)
    before = [
        sum(frame["entries"] for frame in await client.frames(direction="in", kind="awareness")) for client in clients
    ]
    # Numbers and strings that serialisers write in different ways: a re-written state would not match its echo.
    awkward = {
        "n": [1e21, 1e-7, 0.1, -0.0, 12345678901234567890, 5e-324],
        "s": '\u2028\u0007é\ud83d\ude00/\\"<',
        "": None,
    }

    moves = 10
    for move in range(moves):
        for mover in clients:
            state = {"user": {"name": "x", "color": "#fff"}, "cursor": {"x": move + 0.5, "y": -move}, **awkward}
            await mover.set_presence(state)
            for client in clients:
                await client.wait(
                    "(client, {id, x}) => client.awareness.getStates().get(id)?.cursor?.x === x",
                    id=mover.client_id,
                    x=move + 0.5,
                )

    for client, entries_before in zip(clients, before, strict=True):
        frames = await client.frames(direction="in", kind="awareness")
        entries = sum(frame["entries"] for frame in frames) - entries_before
        # Each move once to each client; were echoes passed on, each would come five times.
        assert entries <= len(clients) * moves * 1.5


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_07_presence_is_back_at_once_after_a_blip(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    watcher = await classroom.joined(course, version)
    blinker = await classroom.joined(course, version, presence={"cursor": 1})
    await watcher.sees(blinker)

    await blinker.cut()

    await watcher.sees_gone(blinker, timeout=AT_ONCE)
    await blinker.wait("client => client.line.sockets === 2 && client.provider.synced")
    await watcher.sees(blinker, timeout=AT_ONCE)
    late = await classroom.joined(course, version)
    await late.sees(blinker, timeout=AT_ONCE)


@pytest.mark.parametrize("version", VERSIONS)
async def test_case_07_who_returns_from_a_blip_sees_the_others_at_once(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    stayed = await classroom.joined(course, version, presence={"cursor": 1})
    blinker = await classroom.joined(course, version, presence={"cursor": 2})
    await blinker.sees(stayed)

    await blinker.cut()
    await blinker.wait("client => client.line.sockets === 2 && client.provider.synced")

    # The provider forgot the others' states but not their clocks, so sending the same entries again shows nobody.
    await blinker.sees(stayed, timeout=AT_ONCE)
