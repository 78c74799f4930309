"""Puts a course from a JSON file into a course document, through the server's public socket.

    python examples/load_course.py http://127.0.0.1:8000 examples/data/course-small-git-es.json --email me@example.org

Every node and every edge is a transaction of its own, as if somebody drew them; others who have the course open watch it grow.
The file: {"title", "description", "source", "nodes": [{"id", "kind", "title", "description", "parent", "order", "minutes", "tags",
"props"}], "edges": [{"type", "from", "to", "props"?}]}.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from getpass import getpass
from pathlib import Path
from typing import Any

from course_document import CourseDocument, set_text
from sync_account import Account, SyncError
from sync_client import Connection, CountingJournal, Replica, open_connection

MAX_UNCONFIRMED = 512
WAIT_SECONDS = 60.0

Write = Callable[[CourseDocument], object]


def parents_first(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes so that every module comes before what is in it."""
    by_parent: dict[str | None, list[dict[str, Any]]] = {}
    for node in nodes:
        by_parent.setdefault(node["parent"], []).append(node)
    ordered: list[dict[str, Any]] = []
    waiting: list[str | None] = [None]
    while waiting:
        children = sorted(by_parent.pop(waiting.pop(), []), key=lambda node: node["order"])
        ordered += children
        waiting += [child["id"] for child in reversed(children)]
    if by_parent:
        raise ValueError(f"{sum(map(len, by_parent.values()))} nodes have a parent that is not there")
    return ordered


def properties_of(node: dict[str, Any]) -> dict[str, Any]:
    """Return a node's further keys: minutes, one key for each tag, `p:{kind}.{name}` for each fact from the source."""
    minutes = {} if node["minutes"] is None else {"minutes": node["minutes"]}
    tags = {f"tag:{slug}": True for slug in node["tags"]}
    return minutes | tags | {f"p:{node['kind']}.{name}": value for name, value in node["props"].items()}


def writes(course: dict[str, Any]) -> Iterator[Write]:
    """Yield what is to be written, one transaction each."""
    yield lambda document: set_text(document.description, course["description"])
    yield lambda document: document.settings.update({"licence": course["source"]["licence"]})
    for node in parents_first(course["nodes"]):
        yield lambda document, node=node: document.add_node(  # type: ignore[misc]
            node["kind"],
            node["title"],
            parent=node["parent"] or "",
            index=node["order"],
            node_id=node["id"],
            description=node["description"],
            properties=properties_of(node),
        )
    for edge in course["edges"]:
        yield lambda document, edge=edge: document.add_edge(  # type: ignore[misc]
            edge["type"], edge["from"], edge["to"], edge.get("props")
        )


async def write_course(replica: Replica, connection: Connection, course: dict[str, Any], author: str) -> None:
    """Write the whole course and wait until the server has it on disk. Raises SyncError, TimeoutError."""
    document = CourseDocument(replica.document, author, random.Random())
    async with asyncio.timeout(WAIT_SECONDS):
        await connection.synced()
    for write in writes(course):
        with replica.edit():
            write(document)
        async with asyncio.timeout(WAIT_SECONDS):
            await connection.keep_within(MAX_UNCONFIRMED)
    async with asyncio.timeout(WAIT_SECONDS):
        await connection.saved()


async def load(arguments: argparse.Namespace, password: str) -> None:
    """Sign in, create the course unless told one, write it, and say what that took."""
    course = json.loads(arguments.file.read_text(encoding="utf-8"))
    account = Account(arguments.server, arguments.email, password)
    await asyncio.to_thread(account.sign_in_or_register, arguments.email.partition("@")[0])
    title = arguments.title or course["title"]
    course_id = arguments.course or await asyncio.to_thread(account.create_course, title)
    print(f"course {course_id}", flush=True)
    door = await asyncio.to_thread(account.connect, course_id)
    replica = Replica(CountingJournal())
    started = time.monotonic()
    async with open_connection(replica, door) as connection:
        await write_course(replica, connection, course, account.user_id)
    seconds = time.monotonic() - started
    print(
        f"{len(course['nodes'])} nodes and {len(course['edges'])} edges saved: "
        f"{replica.edits_made} transactions, {replica.bytes_made} bytes, {seconds:.2f} seconds"
    )
    replica.close()


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description="Put a course from a JSON file into a course document.")
    parser.add_argument("server", help="address of the server, such as http://127.0.0.1:8000")
    parser.add_argument("file", type=Path, help="the course, as JSON")
    parser.add_argument("--email", required=True, help="account to use; registered when there is none")
    parser.add_argument("--password", help="its password; better given in COURSE_PASSWORD, where nobody else sees it")
    parser.add_argument("--title", help="title of the new course instead of the file's")
    parser.add_argument("--course", help="id of a course to write into, instead of a new one")
    arguments = parser.parse_args()
    password = arguments.password or os.environ.get("COURSE_PASSWORD") or getpass()
    try:
        asyncio.run(load(arguments, password))
    except (SyncError, TimeoutError, OSError, ValueError) as error:
        print(f"not loaded: {str(error) or 'the server confirms nothing'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was confirmed stays", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
