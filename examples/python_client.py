"""A desktop client for one course: works offline for days, comes back, and knows which of its edits are saved.

    python examples/python_client.py http://127.0.0.1:8000 COURSE --email me@example.org --store course.db

Everything that comes into the document, made here or elsewhere, is appended to the store, so a later start needs no network
(`--offline` uses none). Edits are typed as commands; `help` lists them.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

from course_document import EDGE_TYPES, KINDS, CourseDocument
from local_store import Store, StoreUnusable
from sync_account import Account, Door, Refused, SyncError
from sync_client import Connection, Replica, open_connection
from sync_presence import RENEW_SECONDS, Presence

FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0
STABLE_SECONDS = 10.0  # a connection that held so long was a good one: the next back-off starts small
WRITE_DOWN_SECONDS = 0.5
LEAVE_SECONDS = 10.0
HERE = {"view": "command line"}

HELP = """list | add KIND TITLE | rename NODE TITLE | trash NODE | link TYPE NODE NODE | unlink EDGE | who | status | quit
KIND: module lesson video quiz assignment. TYPE: pre seq ref. NODE, EDGE: as `list` prints them."""


def say(message: str) -> None:
    """Print a line at once, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def edits(number: int) -> str:
    """Return a count in words."""
    return f"{number} edit" if number == 1 else f"{number} edits"


class DesktopClient:
    """A replica with a store, a line to the server that comes and goes, and commands to edit with."""

    def __init__(self, server: str, course: str, store: Store, email: str, password: str | None) -> None:
        self.store = store
        self.replica = Replica(store)
        self.connection: Connection | None = None
        self.is_refused = False
        self.presence = Presence(self.replica.document.client_id)
        self._course = course
        self._random = random.SystemRandom()
        self._account = Account(server, email, password, store.fact("refresh token"), self._keep_refresh_token)
        self._door: Door | None = None
        self._refresh_tokens: list[str] = []
        self.document = CourseDocument(self.replica.document, store.fact("user") or "", self._random)
        for update in store.updates():
            self.replica.apply(update, is_new=False)

    # ------------------------------------------------------------------ the line

    async def stay_connected(self) -> None:
        """Connect, and again whenever the line ends, until the server says that trying again is pointless."""
        failures = 0
        while True:
            started = time.monotonic()
            try:
                await self._connect_once()
            except SyncError as error:
                self.connection = None
                if isinstance(error, Refused) and error.needs_sign_in and self._door is not None:
                    self._door = None  # the token has ended: the next attempt asks for another
                elif error.is_final or (isinstance(error, Refused) and error.needs_sign_in):
                    self.is_refused = True
                    say(
                        f"the server refuses: {error}; the store keeps everything, {edits(self.store.unsaved())} unsaved"
                    )
                    return
                failures = 0 if time.monotonic() - started > STABLE_SECONDS else failures + 1
                delay = self._random.uniform(0.5, 1.0) * min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures, 10))
                say(f"offline: {error}; next attempt in {delay:.1f} s")
                await asyncio.sleep(delay)

    async def _connect_once(self) -> None:
        door = await self._fresh_door()
        try:
            async with open_connection(
                self.replica, door, lineage=self.store.fact("lineage"), on_awareness=self._take_presence
            ) as connection:
                self.connection = connection
                self.store.remember("lineage", door.lineage)
                await connection.synced()
                say(
                    f"online as {door.role}: {len(list(self.document.alive()))} nodes, {edits(self.store.unsaved())} to save"
                )
                raise await self._tell_presence(connection)
        finally:
            self.connection = None
            self.presence.forget_others()

    async def _tell_presence(self, connection: Connection) -> Exception:
        """Say every few seconds that somebody is here, until the line ends; return why it did."""
        while True:
            connection.send_awareness(self.presence.announce(HERE))
            try:
                async with asyncio.timeout(RENEW_SECONDS):
                    return await connection.ended()
            except TimeoutError:
                continue

    def _take_presence(self, payload: bytes) -> None:
        if self.presence.receive(payload) and self.connection is not None:
            self.connection.send_awareness(self.presence.announce(HERE))

    async def _fresh_door(self) -> Door:
        if self._door is None or not self._door.is_fresh():
            try:
                self._door = await asyncio.to_thread(self._account.connect, self._course)
            finally:
                self._write_down_sign_in()
            self.store.bind("user", self._account.user_id)
            self.document.author = self._account.user_id
        return self._door

    def _keep_refresh_token(self, token: str) -> None:
        self._refresh_tokens.append(token)  # called in another thread, where SQLite may not be touched

    def _write_down_sign_in(self) -> None:
        if self._refresh_tokens:
            self.store.remember("refresh token", self._refresh_tokens[-1])
            self._refresh_tokens.clear()

    async def keep_store(self) -> None:
        """Write down what came from elsewhere, tell what became saved, and compact, for ever."""
        told = self.store.unsaved()
        while True:
            await asyncio.sleep(WRITE_DOWN_SECONDS)
            unsaved = self.store.unsaved()
            if unsaved != told:
                say("everything is saved" if unsaved == 0 else f"{edits(unsaved)} not saved yet")
                told = unsaved
            self.store.compact()
            if self.connection is not None and self.connection.denied:
                say(f"the server does not take these edits: {self.connection.denied}")
                self.connection.denied = ""

    async def leave(self) -> None:
        """Wait a while for what is unsaved, as far as there is a line."""
        if self.connection is not None and self.store.unsaved():
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self.connection.saved()
            except (SyncError, TimeoutError) as error:
                say(f"not everything could be saved: {error!r}")

    # ------------------------------------------------------------------ commands

    def run(self, line: str) -> None:
        """Carry out one command line and print what came of it."""
        verb, _, rest = line.strip().partition(" ")
        commands: dict[str, Callable[[str], str]] = {
            "list": lambda _: self._list(),
            "add": self._add,
            "rename": self._rename,
            "trash": self._trash,
            "link": self._link,
            "unlink": self._unlink,
            "who": lambda _: ", ".join(self.presence.names()) or "nobody else",
            "status": lambda _: self.status(),
        }
        try:
            print(commands[verb](rest.strip()) if verb in commands else HELP, flush=True)
        except (KeyError, ValueError) as error:
            print(f"not done: {error}; `help` shows how", flush=True)

    def status(self) -> str:
        """Return what is here and how much of it the server has."""
        line = "online" if self.connection is not None else "offline"
        nodes, edges = len(list(self.document.alive())), len(self.document.edges)
        return f"{line}: {nodes} nodes, {edges} edges, {edits(self.store.unsaved())} unsaved"

    def _list(self) -> str:
        lines = [f"{node_id} {node['kind']}: {node['title']}" for node_id, node in self.document.alive()]
        return "\n".join([f"{self.document.title}", *lines, *sorted(self.document.edges.keys())])

    def _add(self, rest: str) -> str:
        kind, _, title = rest.partition(" ")
        if kind not in KINDS or not title:
            raise ValueError("a kind and a title are needed")
        with self.replica.edit():
            node_id = self.document.add_node(kind, title, index=self.document.next_index())
        return f"added {node_id}"

    def _rename(self, rest: str) -> str:
        node_id, _, title = rest.partition(" ")
        with self.replica.edit():
            self.document.rename_node(node_id, title)
        return f"renamed {node_id}"

    def _trash(self, node_id: str) -> str:
        with self.replica.edit():
            self.document.trash_node(node_id)
        return f"trashed {node_id}"

    def _link(self, rest: str) -> str:
        kind, start, end = rest.split()
        if kind not in EDGE_TYPES or start not in self.document.nodes or end not in self.document.nodes:
            raise ValueError("a type and two nodes are needed")
        with self.replica.edit():
            return f"linked {self.document.add_edge(kind, start, end)}"

    def _unlink(self, key: str) -> str:
        with self.replica.edit():
            self.document.remove_edge(key)
        return f"unlinked {key}"


def read_commands(loop: asyncio.AbstractEventLoop, lines: "asyncio.Queue[str | None]") -> None:
    """Put the lines of standard input into a queue, then None; runs in a thread of its own.

    It reads the descriptor itself: a thread that hangs in `sys.stdin` when the program ends makes the interpreter abort.
    """
    pending = b""
    with contextlib.suppress(RuntimeError, CancelledError):  # the program has ended, and its loop with it
        while chunk := os.read(0, 65536):
            *whole, pending = (pending + chunk).split(b"\n")
            for line in whole:
                asyncio.run_coroutine_threadsafe(lines.put(line.decode(errors="replace")), loop).result()
        asyncio.run_coroutine_threadsafe(lines.put(None), loop).result()


async def carry_out_commands(client: DesktopClient, *, stay: bool) -> None:
    """Carry out what is typed until `quit` or the end of the input. stay: go on syncing after the end of the input."""
    lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=100)
    threading.Thread(target=read_commands, args=(asyncio.get_running_loop(), lines), daemon=True).start()
    while (line := await lines.get()) is not None:
        if line.strip() == "quit":
            return
        if line.strip():
            client.run(line)
    if stay:
        await asyncio.Event().wait()


async def work(client: DesktopClient, arguments: argparse.Namespace) -> None:
    """Sync and take commands until told to stop."""
    main = asyncio.current_task()
    if main is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    say(client.status())
    background = [asyncio.create_task(client.keep_store())]
    if not arguments.offline:
        background.append(asyncio.create_task(client.stay_connected()))
    commands = asyncio.create_task(carry_out_commands(client, stay=arguments.stay))
    try:
        # A fault in the background must not go unnoticed behind a prompt.
        while not commands.done():
            done, _ = await asyncio.wait([commands, *background], return_when=asyncio.FIRST_COMPLETED)
            background = [task for task in background if task not in done]
            for task in done:
                task.result()
        await client.leave()
    finally:
        for task in [commands, *background]:
            task.cancel()
        await asyncio.gather(commands, *background, return_exceptions=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Edit a course, online or not.", epilog=HELP)
    parser.add_argument("server", help="address of the server, such as http://127.0.0.1:8000")
    parser.add_argument("course", help="id of the course")
    parser.add_argument(
        "--store", type=Path, required=True, help="SQLite file that keeps the course here; made if absent"
    )
    parser.add_argument(
        "--email", default="", help="account; needed the first time, as is its password in COURSE_PASSWORD"
    )
    parser.add_argument("--offline", action="store_true", help="use no network: edit now, sync at a later start")
    parser.add_argument("--stay", action="store_true", help="go on syncing after the end of the input")
    return parser.parse_args()


def main() -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments()
    try:
        store = Store(arguments.store)
    except (StoreUnusable, OSError, sqlite3.Error) as error:
        print(f"the store cannot be used: {error}", file=sys.stderr)
        return 1
    try:
        store.bind("course", arguments.course)
        password = os.environ.get("COURSE_PASSWORD")
        client = DesktopClient(arguments.server, arguments.course, store, arguments.email, password)
        asyncio.run(work(client, arguments))
        refused = client.is_refused
    except (KeyboardInterrupt, asyncio.CancelledError):
        refused = False
    except (StoreUnusable, SyncError, ValueError, sqlite3.Error) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    finally:
        unsaved = store.unsaved()
        store.close()
        say(
            "stopped; everything is saved"
            if unsaved == 0
            else f"stopped; {edits(unsaved)} not saved yet, kept in {arguments.store}"
        )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
