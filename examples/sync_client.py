"""A small client of Constructure sync: one Yjs document over a WebSocket.

What both Python examples stand on, and what a program of your own may copy. It needs `pycrdt` and `websockets`, no more.

    account = Account("http://127.0.0.1:8000", email, password)
    door = account.connect(course)
    replica = Replica(CountingJournal())
    async with open_connection(replica, door) as connection:
        await connection.synced()
        with replica.edit() as document:
            ...                       # change the document
        await connection.saved()      # the server has it on disk
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol
from urllib.parse import urlencode

from pycrdt import Doc, TransactionEvent
from sync_account import Door, Refused, SyncError, Unreachable, refusal
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

OPEN_SECONDS = 30.0
CLOSE_SECONDS = 5.0
SILENCE_SECONDS = 45.0  # the server says something every 15 s, if only that it lives
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_WAITING_MESSAGES = 10_000  # beyond it the line is given up: the next connection sends everything in one message

SYNC, AWARENESS, AUTH, RECEIPT = 0, 1, 2, 120
STEP1, STEP2, UPDATE = 0, 1, 2


# ------------------------------------------------------------------------------------------- lib0 and messages


class Malformed(SyncError):
    """The server sent bytes that are no message."""


def write_var_uint(number: int) -> bytes:
    """Return lib0's varUint: seven bits a byte, the low ones first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def var_bytes(content: bytes) -> bytes:
    """Return bytes with their length in front. A string is written as its UTF-8 bytes: length in bytes, not characters."""
    return write_var_uint(len(content)) + content


class Reader:
    """Reads lib0 values from a message and never beyond it."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._position = 0

    def var_uint(self) -> int:
        """Return the next varUint. Raises Malformed: it ends too early or is longer than any client writes."""
        number = shift = 0
        for byte in self._message[self._position : self._position + 10]:
            self._position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
        raise Malformed("a number is cut off or too long")

    def var_bytes(self) -> bytes:
        """Return the next bytes with a length in front. Raises Malformed."""
        size = self.var_uint()
        content = self._message[self._position : self._position + size]
        if len(content) != size:
            raise Malformed("bytes are cut off")
        self._position += size
        return content


# ----------------------------------------------------------------------------------------------------- replica


class Journal(Protocol):
    """Where a replica's updates are kept. Numbers grow; the greatest is the newest."""

    def append(self, update: bytes, *, is_local: bool) -> int:
        """Keep an update and return its number. A local one is kept for good on return."""
        ...

    def newest(self) -> int:
        """Return the number of the newest update."""
        ...

    def mark_saved(self, number: int) -> None:
        """The server has every local update up to this number on disk."""
        ...


class CountingJournal:
    """Keeps nothing: for programs that need no edit to outlive them."""

    def __init__(self) -> None:
        self._count = 0

    def append(self, update: bytes, *, is_local: bool) -> int:
        """See `Journal`."""
        self._count += 1
        return self._count

    def newest(self) -> int:
        """See `Journal`."""
        return self._count

    def mark_saved(self, number: int) -> None:
        """See `Journal`."""


class Replica:
    """A Yjs document and the journal of what has come into it. Edit it only inside `edit`, on one thread.

    listener: called with each local update after it was journalled. bytes_made: of local updates.
    """

    def __init__(self, journal: Journal) -> None:
        self.document: Doc[Any] = Doc()
        self.journal = journal
        self.listener: Callable[[bytes], None] | None = None
        self.edits_made = 0
        self.bytes_made = 0
        self._made: list[bytes] = []
        self._is_applying = False
        # Only collects: a callback runs inside the transaction, where neither the document nor an error is safe.
        self._subscription = self.document.observe(self._collect)

    def _collect(self, event: TransactionEvent) -> None:
        if not self._is_applying:
            self._made.append(event.update)

    @contextmanager
    def edit(self) -> Iterator[Doc[Any]]:
        """Give the document for one transaction, which others see as one step."""
        try:
            with self.document.transaction():
                yield self.document
        finally:
            made, self._made = self._made, []
            for update in made:
                self.edits_made += 1
                self.bytes_made += len(update)
                self.journal.append(update, is_local=True)
                if self.listener is not None:
                    self.listener(update)

    def apply(self, update: bytes, *, is_new: bool = True) -> None:
        """Take an update from elsewhere. is_new: it is to be journalled. Raises Malformed."""
        self._is_applying = True
        try:
            self.document.apply_update(update)
        except BaseException as error:
            # pycrdt panics with a BaseException of its own.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise Malformed(f"an update cannot be applied: {error!r}") from None
            raise
        finally:
            self._is_applying = False
        if is_new and update != b"\x00\x00":
            self.journal.append(update, is_local=False)

    def close(self) -> None:
        """Let the document go: pycrdt never frees one that is observed."""
        self.document.unobserve(self._subscription)


# -------------------------------------------------------------------------------------------------- connection


class Connection:
    """One open WebSocket on one document. Made by `open_connection`.

    is_synced: the document holds what the server held when the connection opened. denied: what the server said when it
    refused a write. on_awareness: called with each awareness payload.
    """

    def __init__(self, replica: Replica, socket: ClientConnection, on_awareness: Callable[[bytes], None]) -> None:
        self.is_synced = False
        self.denied = ""
        self._replica = replica
        self._socket = socket
        self._on_awareness = on_awareness
        self._is_introduced = False
        self._outbox: deque[bytes] = deque()
        self._writes = 0
        self._acknowledged = 0
        self._unacknowledged: deque[tuple[int, int]] = deque()  # (write message, newest local number it holds)
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def unacknowledged(self) -> int:
        """How many write messages the server has not confirmed."""
        return self._writes - self._acknowledged

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever something has happened. Raises what ended the line."""
        while not condition():
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()

    async def synced(self) -> None:
        """Wait until the server's state is here and ours is on its way."""
        await self.wait_for(lambda: self.is_synced and self._is_introduced)

    async def saved(self) -> None:
        """Wait until the server has confirmed every write so far."""
        await self.wait_for(lambda: self._is_introduced and not self.unacknowledged)

    async def keep_within(self, messages: int) -> None:
        """Wait until at most so many writes are unconfirmed, so that a long job does not pile up."""
        await self.wait_for(lambda: self.unacknowledged <= messages)

    async def ended(self) -> Exception:
        """Wait until the line ends and return why."""
        while self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        return self._failure

    def send_awareness(self, payload: bytes) -> None:
        """Tell who is present here."""
        self._send(bytes((AWARENESS,)) + var_bytes(payload))

    # ------------------------------------------------------------------ inside

    def start(self) -> None:
        """Begin the conversation: ask for what is missing here."""
        self._replica.listener = self._send_local
        self._send(bytes((SYNC, STEP1)) + var_bytes(self._replica.document.get_state()))

    def _send_local(self, update: bytes) -> None:
        # Before the server has asked for our state, an edit is part of the answer and not a message of its own.
        if self._is_introduced:
            self._send_write(UPDATE, update)

    def _send_write(self, step: int, update: bytes) -> None:
        self._writes += 1
        self._unacknowledged.append((self._writes, self._replica.journal.newest()))
        self._send(bytes((SYNC, step)) + var_bytes(update))

    def _send(self, message: bytes) -> None:
        if len(self._outbox) >= MAX_WAITING_MESSAGES:
            self.fail(Unreachable("the line is too slow for what is being written"))
        else:
            self._outbox.append(message)
            self._changed.set()

    def fail(self, failure: Exception) -> None:
        """Note why the line ended and wake whoever waits."""
        self._failure = self._failure or failure
        self._changed.set()

    async def write(self) -> None:
        """Send what waits, for as long as the line holds."""
        while True:
            while self._outbox:
                await self._socket.send(self._outbox.popleft())
            await self.wait_for(lambda: bool(self._outbox))

    async def read(self) -> None:
        """Take what comes, for as long as the line holds."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await self._socket.recv(decode=False)
            except TimeoutError:
                raise Unreachable(f"nothing heard for {SILENCE_SECONDS:.0f} s") from None
            self._receive(message)
            self._changed.set()

    def _receive(self, message: bytes) -> None:
        reader = Reader(message)
        kind = reader.var_uint()
        if kind == SYNC:
            self._receive_sync(reader.var_uint(), reader.var_bytes())
        elif kind == AWARENESS:
            self._on_awareness(reader.var_bytes())
        elif kind == AUTH and reader.var_uint() == 0:
            self.denied = reader.var_bytes().decode("utf-8", errors="replace")
        elif kind == RECEIPT:
            self._acknowledge(reader.var_uint())

    def _receive_sync(self, step: int, content: bytes) -> None:
        if step == STEP1:
            self._is_introduced = True
            self._send_write(STEP2, self._replica.document.get_update(content))
        elif step in (STEP2, UPDATE):
            self._replica.apply(content)
            self.is_synced = self.is_synced or step == STEP2

    def _acknowledge(self, number: int) -> None:
        if not self._acknowledged <= number <= self._writes:
            raise Malformed("a receipt for what was never sent")
        self._acknowledged = number
        while self._unacknowledged and self._unacknowledged[0][0] <= number:
            newest = self._unacknowledged.popleft()[1]
            if not self._unacknowledged or self._unacknowledged[0][0] > number:
                self._replica.journal.mark_saved(newest)


@asynccontextmanager
async def open_connection(
    replica: Replica,
    door: Door,
    *,
    lineage: str | None = None,
    on_awareness: Callable[[bytes], None] = lambda _: None,
) -> AsyncIterator[Connection]:
    """Open a course's socket for a replica, one at a time. Raises SyncError.

    lineage: that of a local copy kept from earlier; the server refuses (409) when its document is another by now.
    """
    query = {"token": door.token, "ack": "seq", **({"lineage": lineage} if lineage else {})}
    try:
        socket = await connect(
            f"{door.url}/{door.course}?{urlencode(query)}",
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=MAX_MESSAGE_BYTES,
            compression=None,
            ping_interval=None,  # the silence of the server says the same, also while megabytes are under way
        )
    except InvalidStatus as error:
        raise refusal(error.response.status_code, bytes(error.response.body or b"")) from None
    except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
        raise Unreachable(repr(error)) from error
    connection = Connection(replica, socket, on_awareness)
    work = [asyncio.create_task(_guard(connection, run())) for run in (connection.read, connection.write)]
    try:
        connection.start()
        yield connection
    finally:
        replica.listener = None
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await socket.close()


async def _guard(connection: Connection, work: Any) -> None:
    """Run one direction of a connection; whatever ends it is told to those who wait."""
    try:
        await work
    except ConnectionClosed as error:
        if error.rcvd is None:
            connection.fail(Unreachable("the line broke"))
        else:
            connection.fail(Refused(error.rcvd.code, "closed", error.rcvd.reason))
    except Exception as error:  # also that of a journal, such as a full disk: whoever waits must hear of it
        connection.fail(error)
