"""One open WebSocket between its parser and its connection: messages, back-pressure, liveness, the end."""

import asyncio
import fcntl
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import Final

from picows import WSFrame, WSMsgType, WSTransport

from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import SOCKETS_CLOSED, get_logger
from constructure_sync.protocol import closes
from constructure_sync.transport.acceptor import Acceptor
from constructure_sync.transport.admission import Connection
from constructure_sync.transport.parser import FrameListener, Parser, Swallow

_LARGEST_HEADER: Final = 14
_MAX_REASON_BYTES: Final = 123
_NO_CLOSE_FRAME: Final = 1006
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


class WebSocket(FrameListener):
    """One open WebSocket: the rooms' `Socket`, and picows' listener.

    Everything happens on the loop. Messages that picows delivers while reading is paused are held (never more than one
    read) and handed over in order when it resumes; so is the peer's close frame.
    """

    __slots__ = (
        "_acceptor",
        "_closing",
        "_congested",
        "_connection",
        "_ended",
        "_fragments",
        "_held",
        "_held_close",
        "_key",
        "_last_words",
        "_moved_at",
        "_on_end",
        "_parser",
        "_paused",
        "_pinged_at",
        "_raw",
        "_receive",
        "_waiting",
        "_ws",
        "heard_at",
    )

    def __init__(self, acceptor: Acceptor, raw: asyncio.Transport, on_end: Callable[["WebSocket"], None]) -> None:
        self._acceptor = acceptor
        self._raw = raw
        self._on_end = on_end
        self._ws: WSTransport | None = None
        self._key = ""
        self._parser: Parser | None = None
        self._connection: Connection = _NOBODY
        self._receive: Callable[[bytes], None] = _discard
        self._fragments: bytearray | None = None
        self._held: deque[bytes] = deque()
        self._held_close: int | None = None
        self._paused = False
        self._closing = False
        self._ended = False
        self._congested = False
        self._last_words: asyncio.TimerHandle | None = None
        self._moved_at = self._pinged_at = self.heard_at = acceptor.clock()
        self._waiting = 0
        self.heard = False
        self.unframed = 0

    # ------------------------------------------------------------------ opening

    def open(self, key: str, subprotocol: str | None, make: Callable[["WebSocket"], Connection]) -> None:
        """Answer the upgrade with 101 and connect the transport to a connection. Reading must be paused."""
        limits = self._acceptor.limits
        raw = self._raw
        self._key = key
        self._parser = Parser(self, subprotocol)
        raw.set_write_buffer_limits(high=limits.write_high, low=limits.write_low)
        raw.set_protocol(self._parser)
        self._parser.handshake(raw, key)
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
        self._receive = self._held.append if self._paused else self._connection.receive
        if not self._paused:
            raw.resume_reading()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._ws = transport

    # ------------------------------------------------------------------ reading

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
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.close(closes.PROTOCOL_ERROR, "reserved bits without an extension")
        elif kind is _CLOSE:
            self._take_close(_close_payload_code(frame.get_payload_as_bytes()))
        elif self._closing:
            return
        elif kind is _PING:
            if not self._congested and self._ws is not None:
                self._ws.send_pong(frame.get_payload_as_bytes())
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

    def check_unframed(self) -> None:
        """Refuse a frame that has grown beyond what its message may have, before it is whole."""
        parts = len(self._fragments or b"")
        if self.unframed + parts > self._connection.max_message_bytes + _LARGEST_HEADER:
            self._refuse_large()

    def _refuse_large(self) -> None:
        """Close with 4413 and read on without keeping anything, so that the close frame arrives while the peer sends.

        Bytes left unread would make the kernel reset the connection, close frame and all.
        """
        self.close(closes.TOO_LARGE, "message too large")
        self._fragments = None
        self._change_reader(self._swallow_rest)

    def _swallow_rest(self, parser: Parser) -> None:
        self._raw.set_protocol(Swallow(parser))
        self._raw.resume_reading()

    def renew_parser(self) -> None:
        """Put a new parser in the place of one whose read buffer has grown."""
        if not self._closing:
            self._change_reader(self._replace_parser)

    def _replace_parser(self, parser: Parser) -> None:
        if not self._closing:
            self._parser = Parser(self, None)
            self._raw.set_protocol(self._parser)
            self._parser.succeed(self._raw, self._key)
        if not self._paused or self._closing:
            self._raw.resume_reading()

    def _change_reader(self, change: Callable[[Parser], None]) -> None:
        """Change the transport's protocol after the running read, and before the next."""

        def change_now() -> None:
            if not self._ended and self._parser is not None:
                change(self._parser)

        self._raw.pause_reading()
        asyncio.get_running_loop().call_soon(change_now)

    def pause_reading(self) -> None:
        """Hand over no message until `resume_reading`."""
        if not self._paused and not self._closing and not self._ended:
            self._paused = True
            self._receive = self._held.append
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Hand over what was held, then read on."""
        if not self._paused:
            return
        self._paused = False
        while self._held and not self._paused and not self._closing:
            self._hand_over(self._held.popleft())
        if self._paused or self._closing or self._ended:
            return
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
        if self._ws is not None and not self._closing and not self._congested:
            self._ws.send_ping()

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
        self._closing = True
        self._receive = _discard
        self._held.clear()
        if self._ws is not None:
            text = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
            self._ws.send_close(code, text)  # type: ignore[arg-type]  # takes any number, whatever its stub says
        self._last_words = asyncio.get_running_loop().call_later(self._acceptor.limits.close_timeout, self._raw.abort)

    def _take_close(self, code: int) -> None:
        """The peer's close frame: its answer to ours, or its own wish, which waits until what came before is taken."""
        if self._closing:
            self._raw.close()
        elif self._paused:
            self._held_close = code
        else:
            self._send_close(code, "")
            self._raw.close()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._ended:
            return
        if not self._closing and transport.is_close_frame_sent:
            sent = transport.close_handshake.sent
            SOCKETS_CLOSED.labels(str(int(sent.code)) if sent else str(_NO_CLOSE_FRAME)).inc()  # type: ignore[call-overload]
        self._ended = self._closing = True
        self._receive = _discard
        self._held.clear()
        self._fragments = None
        if self._last_words is not None:
            self._last_words.cancel()
        self._acceptor.remove(self)
        self._on_end(self)
        connection, self._connection, self._parser = self._connection, _NOBODY, None
        try:
            connection.ended()
        except Exception:
            get_logger().exception("a connection failed at its end")
