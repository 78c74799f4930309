"""Yjs 14 with @y/websocket 4, before their release, beside a client of today."""

import asyncio
import json
import shutil

from tests.conformance.classroom import Classroom
from tests.conformance.node_client import DRIVER

SCRIPT = DRIVER.with_name("next_generation.mjs")
DEADLINE = 60.0


async def test_next_generation_syncs_with_itself_and_with_today(classroom: Classroom) -> None:
    course = classroom.new_course("Loops")
    today = await classroom.joined(course)
    door = classroom.server.connect(classroom.owner, course)
    node = shutil.which("node")
    assert node is not None

    process = await asyncio.create_subprocess_exec(
        node, str(SCRIPT), door.url, course, door.token, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()

    assert process.returncode == 0, errors.decode()
    assert json.loads(output) == {"title": "offline 😀 Loops", "nodes": {"from the first": 1, "meanwhile": True}}
    await today.wait("client => client.doc.getText('title').toString() === 'offline 😀 Loops'")
    await today.wait("client => client.doc.getMap('nodes').get('meanwhile') === true")
