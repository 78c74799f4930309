"""The Node examples run as they stand, with the stock clients that these tests have installed."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.classroom import VERSIONS, Classroom
from tests.conformance.node_client import Json, NodeDriver, YjsClient
from tests.server_process import ServerProcess

pytestmark = pytest.mark.xdist_group("conformance-examples")

# The helper looks every ten seconds; this clock makes that half a second.
CLOCK_SPEED = 20
EXAMPLE_SECONDS = 60
NODE_MODULES = Path(__file__).resolve().parent / "node_modules"
# What the examples call a package, and what it is called here, where several generations are installed.
PACKAGES = {"ws": "ws", "yjs": "yjs", "y-websocket": "y-websocket-3"}

KEEP_FRESH = """async (client, doc, Y, {helper, server, course, access, expiresIn}) => {
  const {keepTokenFresh} = await import(helper)
  const getConnect = async () => {
    const response = await fetch(`${server}/api/v1/courses/${course}/connect`, {
      method: 'POST', headers: {Authorization: `Bearer ${access}`, 'Content-Type': 'application/json'}, body: '{}'
    })
    client.renewals = (client.renewals ?? 0) + 1
    return response.json()
  }
  client.stopRenewing = keepTokenFresh(client.provider, getConnect, {expiresIn, onError: console.error})
}"""
STOP = "client => client.stopRenewing()"
RENEWED = """(client, {token}) => {
  setTimeout(() => client.line.changed(), 500)
  return !client.provider.url.includes(token)
}"""
TOKEN = "({provider}) => new URL(provider.url).searchParams.get('token')"


@pytest.fixture(scope="module")
async def driver() -> AsyncIterator[NodeDriver]:
    running = NodeDriver(clock_speed=CLOCK_SPEED)
    await running.start()
    yield running
    await running.stop()


async def keep_fresh(classroom: Classroom, client: YjsClient, course: str, repository: Path, seconds: float) -> None:
    """Start the helper on a client whose token it believes to live for so many seconds."""
    await client.run(
        KEEP_FRESH,
        transact=False,
        helper=(repository / "examples" / "token-renewal.mjs").as_uri(),
        server=classroom.server.url,
        course=course,
        access=classroom.owner.token,
        expiresIn=seconds,
    )


@pytest.mark.parametrize("version", VERSIONS)
async def test_token_is_renewed_before_it_ends(classroom: Classroom, repository: Path, version: str) -> None:
    course = classroom.new_course()
    client = await classroom.joined(course, version)
    first = await client.run(TOKEN)

    await keep_fresh(classroom, client, course, repository, 60)

    assert await client.run("client => client.renewals ?? 0") == 0
    await client.wait(RENEWED, token=first)
    await client.cut()
    await client.wait("client => client.line.sockets === 2 && client.provider.synced")
    assert (await client.report())["refusals"] == []
    await client.run(STOP)


@pytest.mark.parametrize("version", VERSIONS)
async def test_token_is_renewed_after_a_wake_up(classroom: Classroom, repository: Path, version: str) -> None:
    course = classroom.new_course()
    client = await classroom.joined(course, version)
    first = await client.run(TOKEN)
    await keep_fresh(classroom, client, course, repository, 3600)

    await client.run("() => { globalThis.awake = Date.now; Date.now = () => awake() + 7200_000 }")
    await client.wait(RENEWED, token=first)

    await client.run("() => { Date.now = awake }")
    assert (await client.report())["refusals"] == []
    await client.run(STOP)


@pytest.mark.parametrize("version", VERSIONS)
async def test_token_is_renewed_when_reconnects_are_refused(
    classroom: Classroom, repository: Path, version: str
) -> None:
    course = classroom.new_course()
    client = await classroom.join(course, version, params={"token": "ended"}, connect=False)
    await keep_fresh(classroom, client, course, repository, 3600)

    await client.connect()

    await client.synced()
    refusals = (await client.report())["refusals"]
    assert {refusal["status"] for refusal in refusals} == {401}
    await client.run(STOP)


async def test_collaborate_merges_the_work_of_two_people(
    server: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    for name in ("collaborate.mjs", "token-renewal.mjs", "package.json"):
        shutil.copy(repository / "examples" / name, tmp_path)
    (tmp_path / "node_modules").mkdir()
    for name, installed in PACKAGES.items():
        (tmp_path / "node_modules" / name).symlink_to(NODE_MODULES / installed, target_is_directory=True)

    node = shutil.which("node")
    assert node is not None
    process = await asyncio.create_subprocess_exec(
        node,
        str(tmp_path / "collaborate.mjs"),
        server.url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), EXAMPLE_SECONDS)

    assert process.returncode == 0, output.decode()
    lines = output.decode().splitlines()
    assert lines[0] == 'both opened the course "Sorting"'
    assert lines[1] == "both see 2 lessons"
    assert lines[-1] == 'Ben is back; both see "Algorithms: Sorting and searching" and 3 lessons'


def test_examples_name_the_versions_that_are_tried_here(repository: Path) -> None:
    examples: Json = json.loads((repository / "examples" / "package.json").read_text())

    for name, version in examples["dependencies"].items():
        installed = json.loads((NODE_MODULES / PACKAGES[name] / "package.json").read_text())
        assert installed["version"] == version
