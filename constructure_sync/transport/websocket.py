"""One open WebSocket between its parser and its connection: messages, back-pressure, liveness, the end."""

import asyncio
import fcntl
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from picows import WSFrame, WSMsgType, WSTransport

from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import CONNECTIONS, SOCKETS_CLOSED, get_logger
from constructure_sync.protocol import closes
from constructure_sync.transport.acceptor import Acceptor
from constructure_sync.transport.admission import Connection
from constructure_sync.transport.parser import READ_BUFFER_BYTES, Parser, Parsers, Swallow

_LARGEST_HEADER: Final = 14
_MAX_REASON_BYTES: Final = 123
_NO_CLOSE_FRAME: Final = 1006
_CLOSE_HEADER, _PING_HEADER, _PONG_HEADER = 0x88, 0x89, 0x8A
_SWALLOW: Final = Swallow()
_BINARY, _CONTINUATION, _TEXT = WSMsgType.BINARY, WSMsgType.CONTINUATION, WSMsgType.TEXT
_PING, _CLOSE = WSMsgType.PING, WSMsgType.CLOSE


def _discard(_: bytes) -> None:
    """Take bytes that nobody wants any more."""


def _close_payload_code(payload: bytes) -> int:
    """The code in a close frame: 1000 when it has none, 1002 when it is one that no peer may send (RFC 6455 §7.4)."""
    if not payload:
        return closes.NORMAL
    code = int.from_bytes(payload[:2], "big")
    valid = 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
    return code if valid else closes.PROTOCOL_ERROR


class _Nobody:
    """The connection of a socket that has none yet, or no longer."""

    max_message_bytes = 0

    def receive(self, message: bytes) -> None: ...

    def congested(self) -> None: ...

    def writable(self) -> None: ...

    def ended(self) -> None: ...


_NOBODY: Final = _Nobody()


class WebSocket(asyncio.BufferedProtocol):
    """One open WebSocket: the rooms' `Socket`, the transport's protocol, and whom a parser tells of frames.

    Everything happens on the loop. Messages that come while reading is paused are held (never more than one read) and handed
    over in order when it resumes; so is the peer's close frame. There may be thousands that do nothing: what a socket needs only
    now and then, such as a parser, it has only then.

    open_connections: uvicorn's, each of which it tells to shut down. family, address: under which the socket is counted.
    """

    __slots__ = (
        "_acceptor",
        "_address",
        "_closing",
        "_congested",
        "_connection",
        "_ended",
        "_family",
        "_fragments",
        "_held",
        "_held_close",
        "_last_words",
        "_moved_at",
        "_open_connections",
        "_parser",
        "_parsers",
        "_paused",
        "_pinged_at",
        "_raw",
        "_receive",
        "_said_close",
        "_waiting",
        "heard",
        "heard_at",
        "unframed",
    )

    data_received = None
    """uvloop keeps a transport's earlier protocol alive for the sake of this method, unless the next one has it too."""

    def __init__(
        self, acceptor: Acceptor, raw: asyncio.Transport, open_connections: set[Any], family: str, address: str
    ) -> None:
        self._acceptor = acceptor
        self._raw = raw
        self._open_connections = open_connections
        self._family = family
        self._address = address
        self._parsers: Parsers = acceptor.parsers
        self._parser: Parser | Swallow | None = None  # of its own; between two frames it has none
        self._connection: Connection = _NOBODY
        self._receive: Callable[[bytes], None] = _discard
        self._fragments: bytearray | None = None
        self._held: deque[bytes] | None = None  # while reading is paused
        self._held_close: int | None = None
        self._paused = False
        self._closing = False
        self._said_close = False
        self._ended = False
        self._congested = False
        self._last_words: asyncio.TimerHandle | None = None
        self._moved_at = self._pinged_at = self.heard_at = acceptor.clock()
        self._waiting = 0
        self.heard = False  # since the last look
        self.unframed = 0  # bytes read that belong to no frame delivered yet

    # ------------------------------------------------------------------ opening

    def open(self, answer: bytes, make: Callable[["WebSocket"], Connection]) -> None:
        """Answer the upgrade with these bytes and connect the transport to a connection. Reading must be paused."""
        limits = self._acceptor.limits
        raw = self._raw
        raw.set_write_buffer_limits(high=limits.write_high, low=limits.write_low)
        raw.set_protocol(self)
        raw.write(answer)
        self._open_connections.add(self)
        CONNECTIONS.labels(self._family).inc()
        self._acceptor.add(self)
        try:
            self._connection = make(self)
        except Exception:
            get_logger().exception("a socket could not be opened")
            self.close(closes.INTERNAL_ERROR, "internal error")
            return
        if self._ended:
            self._connection.ended()
            return
        if self._closing:
            return
        if self._congested:
            self._connection.congested()
        if not self._paused:
            self._receive = self._connection.receive
            raw.resume_reading()

    # ------------------------------------------------------------------ reading

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        """Called by the transport before each read."""
        return (self._parser or self._parsers.shared).get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the transport after each read."""
        self.heard = True
        self.unframed += nbytes
        parser = self._parser
        if parser is None:
            parser = self._parsers.shared
            parser.listener.socket = self
        try:
            parser.buffer_updated(nbytes)
        except BaseException:  # no memory, or a panic below: the parser may have kept bytes of this socket
            self._end_parsing()
            raise
        if self.unframed or self._parser is not None:
            self._after_part(parser)

    def _after_part(self, parser: Parser | Swallow) -> None:
        """Keep the parser while it holds part of a frame, no longer; refuse a frame that grows beyond what its message may have."""
        if self._parser is None:
            self._parser = self._parsers.take()
        elif not self.unframed and isinstance(parser, Parser) and not parser.is_spent and self._parser is parser:
            self._parser = None
            self._parsers.give_back(parser)
        if self.unframed > READ_BUFFER_BYTES and self._parser is not _SWALLOW:
            parts = len(self._fragments or b"")
            if self.unframed + parts > self._connection.max_message_bytes + _LARGEST_HEADER:
                self._refuse_large()

    def _end_parsing(self) -> None:
        """Whatever comes next, no other socket is to have this parser."""
        if self._parser is None:
            self._parser = self._parsers.take()
        if isinstance(self._parser, Parser):
            self._parser.is_spent = True

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.unframed = frame.tail_size
        try:
            if (
                frame.msg_type is _BINARY
                and frame.fin
                and self._fragments is None
                and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
                and frame.payload_size <= self._connection.max_message_bytes
            ):
                self._receive(frame.get_payload_as_bytes())
            else:
                self._take_other_frame(frame)
        except ProtocolViolation as violation:
            self.close(violation.code, violation.reason)
        except Exception:
            get_logger().exception("a connection failed at a message")
            self.close(closes.INTERNAL_ERROR, "internal error")

    def _take_other_frame(self, frame: WSFrame) -> None:
        """Everything but a whole binary message within its limit."""
        kind = frame.msg_type
        if kind is _CLOSE:
            self._end_parsing()
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.close(closes.PROTOCOL_ERROR, "reserved bits without an extension")
        elif kind is _CLOSE:
            self._take_close(_close_payload_code(frame.get_payload_as_bytes()))
        elif self._closing:
            return
        elif kind is _PING:
            if not self._congested:
                payload = frame.get_payload_as_bytes()
                self.write(bytes((_PONG_HEADER, len(payload))) + payload)
        elif kind is _TEXT:
            self.close(closes.VIOLATION, "text frames are not spoken here")
        elif kind is _BINARY or kind is _CONTINUATION:
            self._take_part(frame, first=kind is _BINARY)

    def _take_part(self, frame: WSFrame, *, first: bool) -> None:
        """One frame of a fragmented message (RFC 6455 §5.4), or a message that is too large."""
        if first is (self._fragments is not None):
            self.close(closes.PROTOCOL_ERROR, "fragments out of order")
            return
        parts = self._fragments if self._fragments is not None else bytearray()
        if len(parts) + frame.payload_size > self._connection.max_message_bytes:
            self._refuse_large()
            return
        parts += frame.get_payload_as_bytes()
        self._fragments = None if frame.fin else parts
        if frame.fin:
            self._receive(bytes(parts))

    def _refuse_large(self) -> None:
        """Close with 4413 and read on without keeping anything, so that the close frame arrives while the peer sends.

        Bytes left unread would make the kernel reset the connection, close frame and all.
        """
        self.close(closes.TOO_LARGE, "message too large")
        self._swallow()

    def _swallow(self) -> None:
        self._fragments = None
        self._end_parsing()
        self._parser = _SWALLOW

    def broken(self, close_payload: bytes) -> None:
        """See `FrameReader`. What came before the broken bytes is still taken."""
        self._end_parsing()
        if not self._closing:
            SOCKETS_CLOSED.labels(str(int.from_bytes(close_payload[:2], "big"))).inc()
        self._say_close(close_payload)
        self._closing = True
        asyncio.get_running_loop().call_soon(self._give_up)

    def _give_up(self) -> None:
        """End a socket whose peer has been told why, and hear nothing more of it."""
        if not self._ended:
            self._swallow()
            self._begin_end()
            self._raw.resume_reading()

    def pause_reading(self) -> None:
        """Hand over no message until `resume_reading`."""
        if not self._paused and not self._closing and not self._ended:
            self._paused = True
            if self._held is None:
                self._held = deque()
            self._receive = self._held.append
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Hand over what was held, then read on."""
        if not self._paused:
            return
        self._paused = False
        held = self._held
        while held and not self._paused and not self._closing:
            self._hand_over(held.popleft())
        if self._paused or self._closing or self._ended:
            return
        self._held = None
        self._receive = self._connection.receive
        if self._held_close is not None:
            self._take_close(self._held_close)
            return
        self._raw.resume_reading()

    def _hand_over(self, message: bytes) -> None:
        try:
            self._connection.receive(message)
        except ProtocolViolation as violation:
            self.close(violation.code, violation.reason)
        except Exception:
            get_logger().exception("a connection failed at a message")
            self.close(closes.INTERNAL_ERROR, "internal error")

    # ------------------------------------------------------------------ writing

    @property
    def buffered(self) -> int:
        """Bytes written and not yet taken by the operating system."""
        return 0 if self._ended else self._raw.get_write_buffer_size()

    def write(self, framed: bytes) -> None:
        """Hand already framed bytes to the transport. Does nothing once the socket is closing."""
        if not self._closing:
            self._raw.write(framed)

    def ping(self) -> None:
        """Send a ping unless bytes are waiting already: it would stand behind them."""
        if not self._congested:
            self.write(bytes((_PING_HEADER, 0)))

    def pause_writing(self) -> None:
        """Called by the transport when its buffer has passed the high mark."""
        self._congested = True
        self._moved_at = self._acceptor.clock()
        self._waiting = self.bytes_waiting
        if not self._closing:
            self._connection.congested()

    def resume_writing(self) -> None:
        """Called by the transport when its buffer has fallen below the low mark."""
        self._congested = False
        if not self._closing:
            self._connection.writable()

    @property
    def bytes_waiting(self) -> int:
        """Bytes that the peer has not confirmed, in our buffer and in the kernel's.

        The kernel takes more only when a third of its buffer, of up to some MiB, is free: on a slow line our buffer
        alone may stand still for minutes while all is well.
        """
        try:
            unsent = fcntl.ioctl(self._raw.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return self.buffered
        return self.buffered + int(struct.unpack("i", unsent)[0])

    # ------------------------------------------------------------------ watching

    def check(self, now: float) -> None:
        """Look whether the peer is there and takes what it is sent; called every few seconds."""
        limits = self._acceptor.limits
        if self.heard or self._paused:
            self.heard = False
            self.heard_at = now
        if self._congested:
            waiting = self.bytes_waiting
            if waiting < self._waiting:
                self._moved_at = self.heard_at = now
            self._waiting = waiting
            if now - self._moved_at >= limits.stuck_timeout:
                self._abort()
                return
        silent = now - self.heard_at
        if silent >= limits.silence_timeout:
            self._abort()
        elif silent >= limits.ping_after and now - self._pinged_at >= limits.ping_after:
            self._pinged_at = now
            self.ping()

    def _abort(self) -> None:
        """End a socket that a close frame would not reach."""
        if not self._closing:
            self._closing = True
            SOCKETS_CLOSED.labels(str(_NO_CLOSE_FRAME)).inc()
        self._raw.abort()

    # ------------------------------------------------------------------ ending

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the TCP connection ends when the peer answers or `close_timeout` has passed."""
        if self._closing or self._ended:
            return
        SOCKETS_CLOSED.labels(str(code)).inc()
        self._send_close(code, reason)
        self._raw.resume_reading()

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops."""
        self.close(closes.RESTART, "restart")

    def _send_close(self, code: int, reason: str) -> None:
        text = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
        self._say_close(code.to_bytes(2, "big") + text.encode())
        self._begin_end()

    def _say_close(self, payload: bytes) -> None:
        if not self._said_close:
            self._said_close = True
            self._raw.write(bytes((_CLOSE_HEADER, len(payload))) + payload)

    def _begin_end(self) -> None:
        """Take nothing more, and let the peer answer the close frame for a while."""
        self._closing = True
        self._receive = _discard
        self._held = None
        if self._last_words is None:
            self._last_words = asyncio.get_running_loop().call_later(
                self._acceptor.limits.close_timeout, self._raw.abort
            )

    def _take_close(self, code: int) -> None:
        """The peer's close frame: its answer to ours, or its own wish, which waits until what came before is taken."""
        if self._closing:
            self._raw.close()
        elif self._paused:
            self._held_close = code
        else:
            self._send_close(code, "")
            self._raw.close()

    def eof_received(self) -> bool:
        """Called by the transport when the peer sends no more: it is closed then."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport, once, when it is closed."""
        self._ended = self._closing = True
        self._receive = _discard
        self._held = self._fragments = self._parser = None
        if self._last_words is not None:
            self._last_words.cancel()
        self._acceptor.remove(self)
        self._acceptor.give_back_place(self._address)
        self._open_connections.discard(self)
        CONNECTIONS.labels(self._family).dec()
        connection, self._connection = self._connection, _NOBODY
        try:
            connection.ended()
        except Exception:
            get_logger().exception("a connection failed at its end")
