"""What a y-websocket client sends and reads, on a plain socket: the opening, frames, messages."""

import base64
import socket
import ssl
from collections.abc import Iterator
from os import urandom
from typing import Final
from urllib.parse import parse_qs, urlsplit

from benchmarks.edits import var_bytes

OPEN_SECONDS: Final = 30.0
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10
SYNC, RECEIPT = 0, 120
STEP1, STEP2, UPDATE = 0, 1, 2
ASK_EVERYTHING: Final = b"\x00\x00\x01\x00"
NOTHING_TO_OFFER: Final = b"\x00\x01\x02\x00\x00"
AUTHENTICATE: Final = b"\x02\x00"
AUTHENTICATED: Final = b"\x02\x02"
DENIED: Final = b"\x02\x01"
_HOCUSPOCUS: Final = "hocuspocus+"
_READ_BYTES: Final = 262_144


class LoadFailed(Exception):
    """The server did not do what the load needs."""


class NotNow(LoadFailed):
    """The server asks to be tried again later."""


class Absent(LoadFailed):
    """Something that is measured, or measured with, is not on this machine."""


def client_frame(message: bytes, opcode: int = BINARY) -> bytes:
    """Frame one message of a client. The mask is of zeros: masking costs the generator, never the server."""
    size = len(message)
    first = bytes((0x80 | opcode,))
    if size < 126:
        return first + bytes((0x80 | size,)) + b"\0\0\0\0" + message
    if size < 65_536:
        return first + b"\xfe" + size.to_bytes(2, "big") + b"\0\0\0\0" + message
    return first + b"\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" + message


def update_frame(update: bytes, prefix: bytes = b"") -> bytes:
    """Frame a live update."""
    return client_frame(prefix + b"\x00\x02" + var_bytes(update))


def hocuspocus_of(url: str) -> tuple[str, bytes, bytes]:
    """Return where to connect, what stands before each message, and the token: for `hocuspocus+ws://host/path?token=…#document`.

    Any other URL is returned as it is; nothing stands before its messages.
    """
    if not url.startswith(_HOCUSPOCUS):
        return url, b"", b""
    parts = urlsplit(url.removeprefix(_HOCUSPOCUS))
    token = parse_qs(parts.query).get("token", [""])[0]
    return parts._replace(fragment="").geturl(), var_bytes(parts.fragment.encode()), token.encode()


class Frames:
    """Cuts what a server sends into frames, from any pieces."""

    __slots__ = ("_rest",)

    def __init__(self, rest: bytes = b"") -> None:
        self._rest = rest

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (opcode, payload) of each frame that is whole now."""
        data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1] & 0x7F, at + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(data[start : start + width], "big"), start + width
            if start + size > end or start > end:
                break
            opcode = data[at] & 0x0F
            at = start + size
            yield opcode, data[start:at]
        self._rest = data[at:]


def read_var_uint(data: bytes, at: int) -> tuple[int, int]:
    """Return a varUint and the place behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def sync_payload(message: bytes) -> tuple[int, bytes] | None:
    """Return the step and the payload of a sync message; None for any other message."""
    if len(message) < 3 or message[0] != SYNC:
        return None
    size, at = read_var_uint(message, 2)
    return message[1], message[at : at + size]


def address_of(url: str) -> tuple[str, int]:
    """Return the host and the port of a WebSocket's URL. LoadFailed: it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or parts.hostname is None:
        raise LoadFailed(f"not the URL of a WebSocket: {parts.scheme}:")
    return parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)


def upgrade_request(url: str) -> bytes:
    """Return the HTTP request that opens a WebSocket."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    key = base64.b64encode(urandom(16)).decode()
    return (
        f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def open_socket(url: str) -> tuple[socket.socket, bytes]:
    """Open a WebSocket; return its socket, which blocks, and what came behind the answer. LoadFailed: refused."""
    address, parts = address_of(url), urlsplit(url)
    try:
        line = socket.create_connection(address, OPEN_SECONDS)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "wss":
            line = ssl.create_default_context().wrap_socket(line, server_hostname=address[0])
    except OSError as error:
        raise LoadFailed(f"{parts.netloc} cannot be reached: {error}") from error
    line.sendall(upgrade_request(url))
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = line.recv(_READ_BYTES)
        if not data:
            raise LoadFailed(f"the server closed the line: {answer[:200]!r}")
        answer += data
    head, rest = answer.split(b"\r\n\r\n", 1)
    if b" 101 " not in head.split(b"\r\n", 1)[0]:
        refusal = NotNow if b" 503 " in head.split(b"\r\n", 1)[0] else LoadFailed
        raise refusal(f"the server refused the socket: {head.split(chr(13).encode(), 1)[0].decode()} {rest[:200]!r}")
    return line, rest
