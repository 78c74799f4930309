"""picows' parser of WebSocket frames, made to fit a socket that was admitted elsewhere."""

import asyncio
import logging
import sys
from typing import Final

from picows import WSAutoPingStrategy, WSListener, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]

READ_BUFFER_BYTES: Final = 4096
_KEPT_BYTES: Final = 256 * 1024

# picows logs every broken frame as an error; whoever sends them could fill the disk. Not a Logger itself: picows would
# make a child of it for every connection.
_picows_logger = logging.getLogger("constructure_sync.picows")
_picows_logger.setLevel(logging.CRITICAL)
_PICOWS_LOG: Final = logging.LoggerAdapter(_picows_logger)


class FrameListener(WSListener):
    """Whom a parser tells what it reads.

    heard: set at every read. unframed: bytes read that belong to no frame delivered yet.
    """

    __slots__ = ("heard", "unframed")

    heard: bool
    unframed: int

    def check_unframed(self) -> None:
        """Refuse a frame that has grown beyond what its message may have, before it is whole."""
        raise NotImplementedError

    def renew_parser(self) -> None:
        """Put a new parser in the place of one whose read buffer has grown: picows never shrinks it."""
        raise NotImplementedError


class _Quiet:
    """A transport that writes nothing until `speak`: how a new parser is told of a handshake that has long been answered.

    Has what picows uses of a transport.
    """

    __slots__ = ("_quiet", "_transport", "abort", "close", "get_extra_info", "get_write_buffer_size", "writelines")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._quiet = True
        self.abort = transport.abort
        self.close = transport.close
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.writelines = transport.writelines

    def write(self, data: bytes) -> None:
        if not self._quiet:
            self._transport.write(data)

    def speak(self) -> None:
        """Pass on what is written from now on."""
        self._quiet = False


class Parser(WSProtocol):  # type: ignore[misc]  # the stubs of picows leave this class out
    """picows' frame parser for one socket; also counts the bytes of a frame that is not whole yet.

    Its own limit on frames is off: it would close with 1009, after which y-websocket tries again for ever.
    """

    def __init__(self, socket: FrameListener, subprotocol: str | None) -> None:
        headers = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol else None
        response = WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(headers), socket)
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
            False,  # pongs of its own: they would pile up when a peer does not read
            sys.maxsize,
            None,  # further headers
            READ_BUFFER_BYTES,
        )
        self._socket = socket
        self._grown = False

    def handshake(self, transport: asyncio.Transport, key: str) -> None:
        """Answer 101. Only the key is passed on, so that neither token nor header can reach picows' log."""
        self.connection_made(transport)
        self._read_request(key)

    def succeed(self, transport: asyncio.Transport, key: str) -> None:
        """Go on where another parser of the same socket stopped, between two frames; writes nothing."""
        quiet = _Quiet(transport)
        self.connection_made(quiet)
        self._read_request(key)
        quiet.speak()

    def _read_request(self, key: str) -> None:
        request = (
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()
        self.get_buffer(len(request))[: len(request)] = request
        super().buffer_updated(len(request))

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop after each read."""
        socket = self._socket
        socket.heard = True
        socket.unframed += nbytes
        super().buffer_updated(nbytes)
        if socket.unframed > READ_BUFFER_BYTES:
            self._grown = self._grown or socket.unframed > _KEPT_BYTES
            socket.check_unframed()
        elif self._grown and not socket.unframed:
            self._grown = False
            socket.renew_parser()


class Swallow(asyncio.BufferedProtocol):
    """Swallows what a peer still sends after it was told to go.

    Bytes left unread would make the kernel reset the connection, and the close frame could be lost with it.
    """

    _scratch = bytearray(65536)

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Forget the bytes."""

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._parser.connection_lost(exc)
