"""Stock Yjs clients in a Node process, for tests: open, edit, wait for conditions, look at frames."""

import asyncio
import base64
import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DRIVER: Final = Path(__file__).resolve().parent / "driver" / "main.mjs"
START_SECONDS: Final = 20.0
WAIT_SECONDS: Final = 20.0
MARGIN_SECONDS: Final = 40.0
LINE_BYTES: Final = 64 * 1024 * 1024

# What comes back is JSON whose shape each test knows; naming every shape here would add nothing.
Json = Any


class DriverError(Exception):
    """The Node side failed; the message is its stack, or says what was waited for in vain."""


class NodeDriver:
    """One Node process that holds any number of stock clients.

    clock_speed: how much faster time runs for the clients' own timers (watchdog, renewal, back-off).
    """

    def __init__(self, clock_speed: float = 1) -> None:
        self._clock_speed = clock_speed
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._ids = itertools.count(1)
        self._errors: deque[str] = deque(maxlen=100)
        self._tasks: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start Node and return once the clients' code is loaded. RuntimeError when Node is not there or fails."""
        node = shutil.which("node")
        if node is None:
            raise RuntimeError("node is not on the PATH; the conformance tests need Node 20 or newer")
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            node,
            str(DRIVER),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            limit=LINE_BYTES,
            env=os.environ | {"CLOCK_SPEED": str(self._clock_speed)},
        )
        ready = asyncio.get_running_loop().create_future()
        self._answers[0] = ready
        self._tasks = [asyncio.create_task(self._read_answers()), asyncio.create_task(self._read_errors())]
        await asyncio.wait_for(ready, START_SECONDS)

    async def stop(self) -> None:
        """End Node and everything in it."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), START_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        await asyncio.gather(*self._tasks)

    async def request(self, method: str, *, seconds: float = WAIT_SECONDS, **params: object) -> Json:
        """Call one method of the driver. Raises DriverError, and TimeoutError when Node does not answer at all."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "method": method, "params": params}, default=_bytes_to_json)
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()
        try:
            return await asyncio.wait_for(answer, seconds + MARGIN_SECONDS)
        finally:
            self._answers.pop(number, None)

    async def open(self, name: str, options: Mapping[str, object]) -> "YjsClient":
        """Open a client; the options are those of `driver/yjs_client.mjs`."""
        client_id = await self.request("open", name=name, options=options)
        return YjsClient(self, name, int(client_id))

    async def compute(self, source: str, **args: object) -> Json:
        """Run `(Y, args) => …` in Node without a client."""
        return await self.request("compute", source=source, args=args)

    async def complaints(self) -> list[str]:
        """What the clients printed or threw since the last call."""
        return list(await self.request("complaints"))

    async def _read_answers(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line, object_hook=_bytes_from_json)
            answer = self._answers.get(message.get("id", 0))
            if answer is None or answer.done():
                continue
            if "error" in message:
                answer.set_exception(DriverError(message["error"]))
            else:
                answer.set_result(message.get("result"))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(DriverError("node ended:\n" + "".join(self._errors)))

    async def _read_errors(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self._errors.append(line.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class YjsClient:
    """A handle on one client in the driver. Sources are JavaScript functions given as text."""

    driver: NodeDriver
    name: str
    client_id: int

    async def run(self, source: str, *, transact: bool = True, **args: object) -> Json:
        """Run `(client, doc, Y, args) => …` in one transaction and return its JSON value."""
        return await self.driver.request("run", name=self.name, source=source, args=args, transact=transact)

    async def wait(self, condition: str, *, timeout: float = WAIT_SECONDS, **args: object) -> None:
        """Wait until `(client, args, clients, same) => …` is true. DriverError with the client's state otherwise."""
        await self.driver.request(
            "wait", seconds=timeout, name=self.name, condition=condition, args=args, timeout=timeout
        )

    async def synced(self, timeout: float = WAIT_SECONDS) -> None:
        """Wait until the provider says that it is synced."""
        await self.wait("client => client.provider.synced", timeout=timeout)

    async def saved(self, timeout: float = WAIT_SECONDS) -> None:
        """Wait until every write sent on the present socket has its receipt; the client must ask with `ack=seq`."""
        await self.wait("client => client.provider.synced && client.saved", timeout=timeout)

    async def same_as(self, *others: "YjsClient", timeout: float = WAIT_SECONDS) -> None:
        """Wait until this document and the others are equal, with nothing pending."""
        names = [other.name for other in others]
        condition = "(client, {names}, clients, same) => names.every(name => same(client.doc, clients[name].doc))"
        await self.wait(condition, timeout=timeout, names=names)

    async def sees(self, *others: "YjsClient", timeout: float = WAIT_SECONDS) -> None:
        """Wait until the others are present here."""
        condition = "(client, {ids}) => ids.every(id => client.awareness.getStates().has(id))"
        await self.wait(condition, timeout=timeout, ids=[other.client_id for other in others])

    async def sees_gone(self, *others: "YjsClient", timeout: float = WAIT_SECONDS) -> None:
        """Wait until the others are no longer present here."""
        condition = "(client, {ids}) => ids.every(id => !client.awareness.getStates().has(id))"
        await self.wait(condition, timeout=timeout, ids=[other.client_id for other in others])

    async def report(self) -> Json:
        """Return content, state vector, delete set, pending, statuses, refusals, closes and presence."""
        return await self.driver.request("report", name=self.name)

    async def frames(self, **which: object) -> list[Json]:
        """Return the frames carried: `direction` in/out, `kind`, `socket` (a number, "all", or the newest)."""
        return list(await self.driver.request("frames", name=self.name, which=which))

    async def set_presence(self, state: object) -> None:
        """Set the local awareness state; None makes the client absent and silent."""
        await self.run("(client, doc, Y, {state}) => client.awareness.setLocalState(state)", state=state)

    async def connect(self) -> None:
        await self.driver.request("connect", name=self.name)

    async def disconnect(self) -> None:
        """Leave in good order, as when a page closes."""
        await self.driver.request("disconnect", name=self.name)
        # The first generation is connected until its socket has closed.
        await self.wait("client => client.provider.ws === null")

    async def cut(self) -> None:
        """Destroy the TCP connection; the provider comes back by itself."""
        await self.driver.request("cut", name=self.name)

    async def drop_next(self, count: int = 1) -> None:
        """Lose the next incoming frames."""
        await self.driver.request("dropNext", name=self.name, count=count)

    async def destroy(self) -> None:
        await self.driver.request("destroy", name=self.name)


def _bytes_to_json(value: object) -> object:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"not JSON: {type(value).__name__}")


def _bytes_from_json(value: dict[str, Json]) -> Json:
    return base64.b64decode(value["$bytes"]) if value.keys() == {"$bytes"} else value
