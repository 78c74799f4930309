"""The title in course lists is derived from the course's document."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pycrdt
import websockets

from constructure_sync.protocol.messages import update_message
from tests.server_process import ServerProcess

DEADLINE = 15.0


def renamed(data: Path, course: str, title: str) -> bytes:
    """Return the update of a client that has the course and gives it another title."""
    with closing(sqlite3.connect(data / "constructure.db")) as database:
        query = "SELECT payload FROM document_updates JOIN documents ON documents.id = document_id WHERE name = ? ORDER BY seq"
        stored = [row[0] for row in database.execute(query, (course,))]
    text = pycrdt.Text()
    document: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc({"title": text})
    for update in stored:
        document.apply_update(update)
    before = document.get_state()
    with document.transaction():
        text.clear()
        text.insert(0, title)
    return document.get_update(before)


async def test_title_follows_the_document_also_after_a_crash(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        owner = server.register("owner")
        course = server.create_course(owner, "Loops")
        for title in ("Graphs", "Trees", "Größe 😀"):
            grant = server.connect(owner, course)
            async with websockets.connect(f"{grant.url}/{course}?token={grant.token}&ack=seq") as socket:
                await socket.send(update_message(renamed(server.data_dir, course, title)))
                async with asyncio.timeout(DEADLINE):
                    async for message in socket:
                        if isinstance(message, bytes) and message[0] == 120:
                            break
            if title == "Trees":
                server.restart()
            async with asyncio.timeout(DEADLINE):
                while server.call("GET", f"/api/v1/courses/{course}", token=owner.token)["title"] != title:
                    await asyncio.sleep(0.05)
