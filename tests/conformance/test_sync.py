"""Stock clients of each generation sync, edit together and offline, and find everything again."""

import pytest

from tests.conformance.classroom import VERSIONS, Classroom

pytestmark = pytest.mark.xdist_group("conformance-sync")

EVERY_KIND_OF_CONTENT = """(client, doc, Y, {name}) => {
  const text = doc.getText('body')
  text.insert(0, `${name} says hello 👩‍🏫 to ünïcödé\\n`)
  text.format(0, name.length, {bold: true, link: {href: 'https://example.org'}})
  text.insertEmbed(text.length, {image: 'a.png', width: 120})
  text.insert(text.length, 'after', {italic: true})
  const nested = new Y.Map()
  doc.getMap('nodes').set(name, nested)
  nested.set('title', new Y.Text(`Title of ${name}`))
  nested.set('numbers', [1, -1, 0.5, 2 ** 40, 1e300, null, true, {deep: ['x']}])
  nested.set('bytes', new Uint8Array([0, 255, 7]))
  nested.set('inner', new Y.Array())
  nested.get('inner').push([1, 'two', {three: 3}])
  doc.getArray('list').insert(0, [name, new Y.Map([['a', 1]]), new Y.Text('t')])
  const element = new Y.XmlElement('paragraph')
  element.setAttribute('level', '2')
  element.insert(0, [new Y.XmlText('rich'), new Y.XmlElement('br')])
  doc.getXmlFragment('prose').insert(0, [element])
  doc.getMap('parts').set(name, new Y.Doc({guid: name}))
}"""

TYPE = "(client, doc, Y, {at, value}) => doc.getText('body').insert(at ?? doc.getText('body').length, value)"
TEXT = "(client, {value}) => client.doc.getText('body').toString() === value"
UNDO = """(client, doc, Y) => {
  const undo = new Y.UndoManager(doc.getText('body'))
  doc.getText('body').insert(0, 'mistake ')
  undo.undo()
  doc.getText('body').insert(0, 'kept ')
  undo.stopCapturing()
  doc.getText('body').delete(0, 2)
  undo.undo()
  undo.redo()
  undo.undo()
}"""


@pytest.mark.parametrize("version", VERSIONS)
async def test_new_course_syncs_at_once(classroom: Classroom, version: str) -> None:
    course = classroom.new_course("Graph theory")

    client = await classroom.joined(course, version)

    title = await client.run("(client, doc) => doc.getText('title').toString()")
    schema = await client.run("(client, doc) => doc.getMap('meta').get('schema')")
    report = await client.report()
    assert title == "Graph theory"
    assert schema == 1
    assert report["closes"] == []
    assert report["refusals"] == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_everyone_is_asked_for_what_they_have_with_one_message_a_frame(
    classroom: Classroom, version: str
) -> None:
    client = await classroom.joined(classroom.new_course(), version, params={"ack": ""})
    await client.wait("client => client.line.select({direction: 'out', kind: 'sync-step2'}).length > 0")

    frames = await client.frames(direction="in")

    kinds = [frame["kind"] for frame in frames]
    assert kinds.count("sync-step1") == 1
    assert set(kinds) <= {"sync-step1", "sync-step2", "sync-update", "awareness"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_two_clients_edit_every_kind_of_content_together(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    one, two = await classroom.joined(course, version), await classroom.joined(course, "3")

    await one.run(EVERY_KIND_OF_CONTENT, name="one")
    await two.run(EVERY_KIND_OF_CONTENT, name="two")
    await one.run(UNDO, transact=False)
    await one.same_as(two)

    late = await classroom.joined(course, version)
    await late.same_as(one, two)
    assert len((await late.report())["content"]["nodes"]) == 2


@pytest.mark.parametrize("version", VERSIONS)
async def test_work_of_both_sides_while_one_is_offline_is_merged(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    away, here = await classroom.joined(course, version), await classroom.joined(course, version)
    await here.run(TYPE, value="shared ")
    await away.same_as(here)

    await away.disconnect()
    await away.run(EVERY_KIND_OF_CONTENT, name="away")
    await away.run("(client, doc) => doc.getText('body').delete(0, 3)")
    await here.run(EVERY_KIND_OF_CONTENT, name="here")
    await here.run(TYPE, value="meanwhile")
    await here.saved()
    await away.connect()

    await away.saved()
    await away.same_as(here)
    late = await classroom.joined(course, version)
    await late.same_as(away)
    assert len((await late.report())["content"]["nodes"]) == 2


async def test_generations_edit_one_course_together(classroom: Classroom) -> None:
    course = classroom.new_course()
    clients = [await classroom.joined(course, version) for version in VERSIONS]

    for turn in range(5):
        for number, client in enumerate(clients):
            await client.run(TYPE, at=0, value=f"{turn}.{number} ")
    for client in clients:
        await client.same_as(*clients)

    text = (await clients[0].report())["content"]["body"][0]["insert"]
    assert sorted(text.split()) == sorted(f"{turn}.{number}" for turn in range(5) for number in range(3))


async def test_local_store_brings_back_work_that_was_never_sent(classroom: Classroom) -> None:
    course = classroom.new_course()
    alone = await classroom.join(course, indexeddb=f"store-{course}", connect=False)
    await alone.wait("client => client.stored")
    await alone.run(EVERY_KIND_OF_CONTENT, name="alone")
    before = await alone.run("(client, doc) => doc.getText('body').toString()")
    await classroom.leave(alone)

    reopened = await classroom.join(course, indexeddb=f"store-{course}")

    await reopened.wait("client => client.stored")
    await reopened.saved()
    late = await classroom.joined(course)
    await late.same_as(reopened)
    assert await late.run("(client, doc) => doc.getText('body').toString()") == before


@pytest.mark.parametrize("version", VERSIONS)
async def test_R11_every_write_gets_its_receipt(classroom: Classroom, version: str) -> None:
    course = classroom.new_course()
    writer = await classroom.joined(course, version)
    for number in range(10):
        await writer.run(TYPE, value=str(number))

    await writer.saved()

    receipts = await writer.frames(direction="in", kind="receipt")
    written = [receipt["written"] for receipt in receipts]
    seqs = [receipt["seq"] for receipt in receipts]
    assert written == sorted(set(written))
    assert seqs == sorted(seqs)
    # The first write message is the answer to the server's question, which says nothing new; ten edits follow.
    assert written[-1] == 11


async def test_R11_write_that_says_nothing_new_gets_a_receipt_too(classroom: Classroom) -> None:
    course = classroom.new_course()
    writer = await classroom.joined(course)
    await writer.run(TYPE, value="once")
    await writer.saved()

    await writer.run(
        """({provider, doc}, _, Y) => {
          const update = Y.encodeStateAsUpdate(doc)
          const size = update.length < 128 ? [update.length] : [update.length & 127 | 128, update.length >> 7]
          provider.ws.send(new Uint8Array([0, 2, ...size, ...update]))
        }"""
    )

    await writer.saved()


async def test_receipts_go_only_to_who_asked(classroom: Classroom) -> None:
    course = classroom.new_course()
    asked, silent = await classroom.joined(course), await classroom.joined(course, params={"ack": ""})
    await asked.run(TYPE, value="a")
    await silent.run(TYPE, value="b")
    await asked.saved()
    await asked.same_as(silent)

    assert await silent.frames(direction="in", kind="receipt") == []


async def test_new_generation_of_yjs_works_with_the_old_one(classroom: Classroom) -> None:
    course = classroom.new_course("Old and new")
    old = await classroom.joined(course, "3")
    new = await classroom.joined(course, "4", params={"ack": ""})

    await old.run("(client, doc) => doc.getMap('settings').set('from', 'old')")
    await new.wait("client => client.doc.getMap('settings').get('from') === 'old'")
    await new.run("(client, doc) => doc.getMap('settings').set('reply', 'new')")
    await old.wait("client => client.doc.getMap('settings').get('reply') === 'new'")

    late = await classroom.joined(course, "2")
    await late.same_as(old)


async def test_R15_client_ids_beyond_32_bits_are_taken(classroom: Classroom) -> None:
    course = classroom.new_course()
    wide = await classroom.joined(course, clientId=2**53 - 1)
    other = await classroom.joined(course)

    await wide.run(TYPE, value="from a wide id")

    await wide.saved()
    await other.same_as(wide)
    assert str(2**53 - 1) in (await other.report())["stateVector"]
