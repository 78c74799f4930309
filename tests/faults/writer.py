"""A light y-protocols client that edits without pause, asks for receipts, and knows which of its edits were acknowledged."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from pycrdt import Doc, Map, TransactionEvent
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.messages import sync_step1, sync_step2, update_message

EDITS: Final = "edits"
LATEST: Final = "latest"
_SHARED_KEYS: Final = 4
_OVERWRITE_EACH: Final = 8
_LARGE_EACH: Final = 1_000
_LARGE: Final = 70_000  # characters: read in a worker, while the socket is paused
_OPEN_SECONDS: Final = 20.0
_SYNC, _RECEIPT = 0, 120
_STEP1 = 0


class Writer:
    """Makes edits `name.1`, `name.2` …, each a key of its own in the map `edits`; some also overwrite a shared key.

    An overwritten key refers to a neighbour's struct, which the server may have lost with a crash before it was saved: then
    this client conveys it. window: edits that may wait for their receipt before the next is made.
    on_receipt: called as soon as a receipt was read.
    """

    def __init__(self, name: str, randomness: random.Random, *, window: int) -> None:
        self.name = name
        self.made = 0
        self.acknowledged = 0
        self.is_connected = False
        self.on_receipt: Callable[[], None] | None = None
        self._randomness = randomness
        self._window = window
        self._doc: Doc[Map[str]] = Doc()
        self._edits = self._doc.get(EDITS, type=Map[str])
        self._latest = self._doc.get(LATEST, type=Map[str])
        self._update: bytes | None = None
        self._doc.observe(self._observe)
        self._progress = asyncio.Event()
        self._turn = asyncio.Lock()
        self._sent = 0  # write messages on the present socket
        self._waiting: deque[tuple[int, int]] = deque()  # (number of the write message, last edit that it holds)

    @property
    def in_flight(self) -> int:
        """Edits made and not acknowledged."""
        return self.made - self.acknowledged

    async def write(self, url: str, *, edits: int | None = None) -> None:
        """Connect and edit until the socket ends. edits: stop editing after so many, and leave once all is acknowledged.

        What was not acknowledged before is given again when the server asks. Raises OSError or WebSocketException where
        no connection comes about.
        """
        async with connect(url, open_timeout=_OPEN_SECONDS, close_timeout=_OPEN_SECONDS, max_size=None) as socket:
            self._sent, self.is_connected = 0, True
            self._waiting.clear()
            last = None if edits is None else self.made + edits
            writing = asyncio.create_task(self._edit(socket, last))
            reading = asyncio.create_task(self._read(socket))
            try:
                await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
                if not writing.done():
                    await reading
                elif writing.exception() is not None:
                    await reading  # receipts that the server sent before its end still count
                    await writing
            except ConnectionClosed:
                pass  # the server's end, as was to be expected
            finally:
                self.is_connected = False
                writing.cancel()
                reading.cancel()
                await asyncio.gather(writing, reading, return_exceptions=True)

    async def _edit(self, socket: ClientConnection, last: int | None) -> None:
        await socket.send(sync_step1(self._doc.get_state()))
        while last is None or self.made < last:
            while self.in_flight >= self._window:
                await self._progressed()
            update = self._make_edit()
            await self._send(socket, update_message(update), self.made)
        while self.in_flight:
            await self._progressed()

    async def _progressed(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def _make_edit(self) -> bytes:
        self.made += 1
        key = f"{self.name}.{self.made}"
        length = _LARGE if self.made % _LARGE_EACH == 0 else self._randomness.randint(1, 40)
        with self._doc.transaction():
            self._edits[key] = "x" * length
            if self._randomness.randrange(_OVERWRITE_EACH) == 0:
                self._latest[str(self._randomness.randrange(_SHARED_KEYS))] = key
        update, self._update = self._update, None
        assert update is not None
        return update

    def _observe(self, event: TransactionEvent) -> None:
        self._update = event.update

    async def _send(self, socket: ClientConnection, message: bytes, last_edit: int) -> None:
        """Send one write message: they are numbered in the order in which they leave."""
        async with self._turn:
            self._sent += 1
            self._waiting.append((self._sent, last_edit))
            await socket.send(message)

    async def _read(self, socket: ClientConnection) -> None:
        async for message in socket:
            assert isinstance(message, bytes)
            reader = Reader(message)
            kind = reader.read_var_uint()
            if kind == _RECEIPT:
                self._take_receipt(reader.read_var_uint())
            elif kind == _SYNC:
                step, payload = reader.read_var_uint(), reader.read_var_bytes()
                if step == _STEP1:
                    await self._send(socket, sync_step2(self._doc.get_update(payload)), self.made)
                else:
                    self._doc.apply_update(payload)

    def _take_receipt(self, number: int) -> None:
        while self._waiting and self._waiting[0][0] <= number:
            self.acknowledged = max(self.acknowledged, self._waiting.popleft()[1])
        self._progress.set()
        if self.on_receipt is not None:
            self.on_receipt()


async def write_while_it_serves(
    writer: Writer, url: str, stop: asyncio.Event, *, edits: int | None, pause: float
) -> None:
    """Write, connecting again after every end, as a provider does, until an end comes after `stop` was set.

    edits: of one visit, see `Writer.write`. pause: seconds between two visits, at most.
    """
    randomness = random.Random(writer.name)
    while not stop.is_set():
        with contextlib.suppress(OSError, WebSocketException):  # the server is being killed or started again
            await writer.write(url, edits=edits)
        await asyncio.sleep(randomness.uniform(0, pause))
