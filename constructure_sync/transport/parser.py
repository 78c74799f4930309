"""picows' parser of WebSocket frames, shared: one for all sockets of a server that are between two frames.

A parser knows nothing of a socket between two frames. So an idle socket has neither a parser nor a buffer; one that has received
part of a frame keeps the parser that holds it until the frame is whole.
"""

import logging
import sys
from typing import Final, Protocol

from picows import (
    WSAutoPingStrategy,
    WSFrame,
    WSListener,
    WSTransport,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]

READ_BUFFER_BYTES: Final = 16 * 1024
_SPARE_PARSERS: Final = 8

# picows logs every broken frame as an error; whoever sends them could fill the disk. Not a Logger itself: picows would
# make a child of it for every parser.
_picows_logger = logging.getLogger("constructure_sync.picows")
_picows_logger.setLevel(logging.CRITICAL)
_PICOWS_LOG: Final = logging.LoggerAdapter(_picows_logger)

_REQUEST: Final = (
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class FrameReader(Protocol):
    """A socket, as its parser sees it."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take one frame; its payload is valid only until this returns."""
        ...

    def broken(self, close_payload: bytes) -> None:
        """What was read is no frame. close_payload: what picows would tell the peer, a code and a reason."""
        ...


class _Listener(WSListener):
    """Passes frames on to the socket that is being read."""

    __slots__ = ("socket",)

    socket: FrameReader

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.socket.on_ws_frame(transport, frame)


class _NoSocket:
    """What picows looks at and sets on a socket, for a parser that has none."""

    def setsockopt(self, *_: object) -> None: ...

    def getsockopt(self, *_: object) -> int:
        return 0

    def fileno(self) -> int:
        return -1


class _Line:
    """The transport that a parser writes to: its answer to the handshake, and a close frame at broken bytes."""

    __slots__ = ("_listener", "is_open")

    def __init__(self, listener: _Listener) -> None:
        self._listener = listener
        self.is_open = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return _NoSocket() if name == "socket" else default

    def get_write_buffer_size(self) -> int:
        """Never empty: then picows does not write to the file descriptor by itself."""
        return 1

    def write(self, data: bytes) -> None:
        if self.is_open:
            self._listener.socket.broken(data[2:])  # behind a header of two bytes: a control frame is short

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Parser(WSProtocol):  # type: ignore[misc]  # the stubs of picows leave this class out
    """picows' frame parser without a socket: the one whose bytes it is given next is its listener's `socket`.

    Its own limit on frames is off: it would close with 1009, after which y-websocket tries again for ever. It sends neither pings
    nor pongs of its own: they would pile up when a peer does not read.

    is_spent: it has met a close frame or broken bytes, and is of no use to another socket.
    """

    __slots__ = ("is_spent",)

    def __init__(self) -> None:
        listener = _Listener()
        response = WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(), listener)
        super().__init__(
            None,  # host and port
            None,  # path
            False,  # is a client
            lambda _: response,
            _PICOWS_LOG,
            True,  # disconnect on an exception of the listener
            None,  # handshake timeout
            False,  # pings of its own
            20,
            20,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # pongs of its own
            sys.maxsize,
            None,  # further headers
            READ_BUFFER_BYTES,
        )
        self.is_spent = False
        line = _Line(listener)
        self.connection_made(line)
        self.get_buffer(-1)[: len(_REQUEST)] = _REQUEST
        self.buffer_updated(len(_REQUEST))
        line.is_open = True

    @property
    def has_grown(self) -> bool:
        """Whether its buffer is larger than at first; picows never shrinks it. Only between two frames."""
        return len(self.get_buffer(-1)) > READ_BUFFER_BYTES


class Parsers:
    """The parsers of one server's sockets. shared: for whoever is between two frames; on the loop only."""

    __slots__ = ("_spare", "shared")

    def __init__(self) -> None:
        self.shared = Parser()
        self._spare: list[Parser] = []

    def take(self) -> Parser:
        """Return the shared parser for one socket alone: it holds part of a frame of it, or has met its end."""
        taken, self.shared = self.shared, self._spare.pop() if self._spare else Parser()
        return taken

    def give_back(self, parser: Parser) -> None:
        """Take back a parser that is between two frames again."""
        if len(self._spare) < _SPARE_PARSERS and not parser.has_grown:
            self._spare.append(parser)

    def trim(self) -> None:
        """Give back what large reads have made the shared parser's buffer grow to."""
        if self.shared.has_grown:
            self.shared = self._spare.pop() if self._spare else Parser()


class Swallow:
    """Stands where a parser stands, and swallows what a peer still sends after it was told to go.

    Bytes left unread would make the kernel reset the connection, and the close frame could be lost with it.
    """

    is_spent: Final = True
    _scratch: Final = bytearray(65536)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Forget the bytes."""
