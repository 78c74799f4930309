"""What is decided about an upgrade request from its bytes alone: shape, document, query, origin, address.

Pure: no I/O. Whatever cannot be read raises `Refusal`; the socket class writes it as an HTTP response.
"""

import base64
import binascii
import hashlib
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import parse_qsl

from constructure_sync.rooms.socket import Socket

MAX_TARGET_BYTES: Final = 10 * 1024
MAX_TOKEN_CHARACTERS: Final = 8 * 1024
MAX_QUERY_FIELDS: Final = 16
TOKEN_SUBPROTOCOL: Final = "constructure.token."
HOCUSPOCUS_PATH: Final = "/hocuspocus"

_ACCEPT_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_SYNC_PATH = re.compile(rf"/sync/({_UUID})(?:/body/([0-9A-Za-z]{{12}})|/(review))?")
_QUERY_NAME = re.compile("[A-Za-z0-9_-]{1,64}")
_ONCE = ("host", "origin", "sec-websocket-key", "sec-websocket-version", "authorization")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Connection(Protocol):
    """What the transport calls, always on the loop and never after `ended`."""

    @property
    def max_message_bytes(self) -> int:
        """The largest message this connection may send now; over it the socket is closed with 4413."""
        ...

    def receive(self, message: bytes) -> None:
        """Take one whole binary message, in order. A ProtocolViolation raised here closes the socket with its code."""
        ...

    def congested(self) -> None:
        """The write buffer has passed its high mark: write only what cannot wait."""
        ...

    def writable(self) -> None:
        """The write buffer has fallen below its low mark."""
        ...

    def ended(self) -> None:
        """The socket is gone; called exactly once."""
        ...


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A well-formed upgrade request for one of our routes.

    path: as sent, one that `document_path` reads, or HOCUSPOCUS_PATH.
    query: decoded, each name once; without `token`, which is moved to its own field.
    origin: the Origin header, already checked; None when absent.
    token: from the subprotocol `constructure.token.<token>`, else an `Authorization: Bearer` header, else `?token=`.
    token_in_query: the token came in the query string, where API keys are not accepted.
    address: of the client, after trusted proxies; empty when it cannot be known.
    """

    path: str
    query: dict[str, str]
    origin: str | None
    subprotocols: tuple[str, ...]
    address: str
    token: str | None = None
    token_in_query: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """Leave to open. open: called at most once, with the open socket; the decision itself holds nothing that leaks."""

    open: Callable[[Socket], Connection]


@dataclass(frozen=True, slots=True)
class Refused:
    """An HTTP refusal. code: a stable problem code; detail: an English sentence for people."""

    status: int
    code: str
    detail: str


Admit = Callable[[UpgradeRequest], Awaitable[Admitted | Refused]]


class Refusal(Exception):
    """Carries a `Refused` out of a check."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(code)
        self.refused = Refused(status, code, detail)


@dataclass(frozen=True, slots=True)
class DocumentPath:
    """The document that a `/sync/…` path names: a course's graph, the body of one of its nodes, or its review."""

    course: str
    node: str | None
    review: bool


def document_path(path: str) -> DocumentPath | None:
    """The document named by a raw request path, or None: anything but the one spelling of each document is unknown."""
    match = _SYNC_PATH.fullmatch(path)
    if match is None:
        return None
    course, node, review = match.groups()
    return DocumentPath(course, node, review is not None)


@dataclass(frozen=True, slots=True)
class Handshake:
    """The bytes of an upgrade request, taken apart. key: Sec-WebSocket-Key; forwarded: X-Forwarded-For, as sent."""

    path: str
    query: str
    key: str
    origin: str | None
    subprotocols: tuple[str, ...]
    authorization: str | None
    forwarded: str


def parse_handshake(data: bytes) -> Handshake:
    """Read a whole upgrade request (RFC 6455 §4.2.1).

    data: request line and headers, ended by an empty line. Raises Refusal 400 or 426.
    """
    request_line, *lines = data.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")
    parts = request_line.split(" ")
    if len(parts) != 3 or parts[0] != "GET" or parts[2] != "HTTP/1.1" or len(parts[1]) > MAX_TARGET_BYTES:
        raise Refusal(400, "bad_upgrade", "A WebSocket is opened with GET and HTTP/1.1.")
    path, _, query = parts[1].partition("?")
    headers = _parse_headers(lines)
    tokens = {token.strip().lower() for token in headers.get("connection", "").split(",")}
    if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in tokens:
        raise Refusal(400, "bad_upgrade", "The request does not ask for a WebSocket.")
    if headers.get("sec-websocket-version") != "13":
        raise Refusal(426, "bad_upgrade", "Only version 13 of the WebSocket protocol is spoken here.")
    offered = headers.get("sec-websocket-protocol", "")
    return Handshake(
        path=path,
        query=query,
        key=_checked_key(headers.get("sec-websocket-key", "")),
        origin=headers.get("origin"),
        subprotocols=tuple(name.strip() for name in offered.split(",") if name.strip()),
        authorization=headers.get("authorization"),
        forwarded=headers.get("x-forwarded-for", ""),
    )


def _parse_headers(lines: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not separator or not name or name != name.strip():
            raise Refusal(400, "bad_upgrade", "A header line cannot be read.")
        if name in headers and name in _ONCE:
            raise Refusal(400, "bad_upgrade", f"The header {name} may be given only once.")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _checked_key(key: str) -> str:
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        raise Refusal(400, "bad_upgrade", "Sec-WebSocket-Key is not 16 bytes in base64.")
    return key


def parse_query(query: str) -> dict[str, str]:
    """The fields of a raw query string.

    Raises Refusal 400 for too many or repeated names, bad encodings and control characters.
    """
    try:
        fields = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except (UnicodeDecodeError, ValueError):
        raise Refusal(400, "bad_query", "The query string cannot be read.") from None
    parsed = dict(fields)
    if len(parsed) != len(fields):
        raise Refusal(400, "bad_query", "A name in the query string may be given only once.")
    for name, value in fields:
        if not _QUERY_NAME.fullmatch(name) or len(value) > MAX_TOKEN_CHARACTERS or not value.isprintable():
            raise Refusal(400, "bad_query", "The query string holds what no parameter may hold.")
    return parsed


def token_subprotocol(subprotocols: Sequence[str]) -> str | None:
    """The offered subprotocol that carries a token: the one to answer with. None: none was offered."""
    return next((name for name in subprotocols if name.startswith(TOKEN_SUBPROTOCOL)), None)


def read_request(handshake: Handshake, address: str) -> UpgradeRequest:
    """The request that admission decides on. Raises Refusal 400 when the query or the token cannot be read."""
    query = parse_query(handshake.query)
    query_token = query.pop("token", None)
    chosen = token_subprotocol(handshake.subprotocols)
    scheme, _, credentials = (handshake.authorization or "").partition(" ")
    token = chosen.removeprefix(TOKEN_SUBPROTOCOL) if chosen else None
    if token is None and scheme.lower() == "bearer":
        token = credentials.strip()
    in_query = token is None and query_token is not None
    token = query_token if in_query else token
    if token is not None and len(token) > MAX_TOKEN_CHARACTERS:
        raise Refusal(400, "bad_token", "The token is too long.")
    return UpgradeRequest(
        path=handshake.path,
        query=query,
        origin=handshake.origin,
        subprotocols=handshake.subprotocols,
        address=address,
        token=token or None,
        token_in_query=in_query,
    )


def origin_allowed(request: UpgradeRequest, allowed: Container[str]) -> bool:
    """Whether a page of this origin may open the socket.

    Only exact members of the list; `null` never. Without an Origin header it is no browser: allowed when a token came
    with the request, or on the Hocuspocus route, where the token comes in a message.
    """
    if request.origin is None:
        return request.token is not None or request.path == HOCUSPOCUS_PATH
    return request.origin != "null" and request.origin in allowed


def client_address(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """The address that limits are counted on: the last one of X-Forwarded-For that no trusted proxy of ours has.

    peer: the other end of the TCP connection; forwarded: the header as sent, believed only where trusted proxies wrote.
    """
    address = peer
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    while hops and _is_trusted(address, trusted):
        hop = hops.pop()
        try:
            address = str(ipaddress.ip_address(hop))
        except ValueError:
            break
    return address


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)


def switching_response(key: str, subprotocol: str | None) -> bytes:
    """The answer that opens a WebSocket (RFC 6455 §4.2.2). key: Sec-WebSocket-Key, already checked."""
    accept = base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT_SALT, usedforsecurity=False).digest()).decode()
    headers = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
    ]
    if subprotocol is not None:
        headers.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*headers, "", ""]).encode()


def refusal_response(refused: Refused) -> bytes:
    """A complete HTTP/1.1 response with a problem body (RFC 9457), after which the connection is closed."""
    title = HTTPStatus(refused.status).phrase
    problem = {
        "type": "about:blank",
        "title": title,
        "status": refused.status,
        "code": refused.code,
        "detail": refused.detail,
    }
    body = json.dumps(problem).encode()
    headers = [
        f"HTTP/1.1 {refused.status} {title}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if refused.status == HTTPStatus.UPGRADE_REQUIRED:
        headers += ["Sec-WebSocket-Version: 13", "Upgrade: websocket"]
    return "\r\n".join([*headers, "", ""]).encode() + body
