"""The WebSocket close codes this server sends: one table for code, documentation and tests.

y-websocket 3.1 stops reconnecting on 4400–4499 and tries again after every other code; the codes follow that.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class CloseCode:
    """What a close code tells a client.

    code: as sent in the close frame (RFC 6455 §7.4).
    permanent: trying again with the same request is pointless until something else has changed.
    meaning: why the server ended the connection.
    advice: what the client should do.
    """

    code: int
    name: str
    permanent: bool
    meaning: str
    advice: str


NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
INVALID_DATA: Final = 1007
INTERNAL_ERROR: Final = 1011
RESTART: Final = 1012
OVERLOADED: Final = 1013
VIOLATION: Final = 4400
UNAUTHENTICATED: Final = 4401
FORBIDDEN: Final = 4403
DELETED: Final = 4404
LINEAGE: Final = 4409
TOO_LARGE: Final = 4413
RATE: Final = 4529

CLOSE_CODES: Final[tuple[CloseCode, ...]] = (
    CloseCode(NORMAL, "normal", False, "The connection has served its purpose.", "Nothing."),
    CloseCode(GOING_AWAY, "going away", False, "The other side is leaving.", "Reconnect when needed."),
    CloseCode(
        PROTOCOL_ERROR,
        "protocol error",
        False,
        "Bytes that are not WebSocket frames a client may send (RFC 6455).",
        "Look for a broken client or proxy; reconnect.",
    ),
    CloseCode(
        INVALID_DATA,
        "invalid data",
        False,
        "The reason in a close frame was not UTF-8.",
        "Look for a broken client or proxy; reconnect.",
    ),
    CloseCode(
        INTERNAL_ERROR,
        "internal error",
        False,
        "The server failed at this connection; its log says why.",
        "Reconnect with back-off.",
    ),
    CloseCode(RESTART, "restart", False, "The instance is restarting or moving the connection away.", "Reconnect."),
    CloseCode(
        OVERLOADED,
        "overloaded",
        False,
        "The instance cannot take more now; what was not acknowledged is still the client's.",
        "Reconnect with back-off.",
    ),
    CloseCode(
        VIOLATION,
        "violation",
        True,
        "A message that no well-behaved client sends: malformed, unknown or not allowed.",
        "Stop. Report the client's name and version.",
    ),
    CloseCode(
        UNAUTHENTICATED,
        "unauthenticated",
        True,
        "The token is missing, expired or revoked.",
        "Get a new connect token, then reconnect.",
    ),
    CloseCode(
        FORBIDDEN,
        "forbidden",
        True,
        "The role does not allow this; what was refused is kept as a stranded change.",
        "Stop. Ask the course's owner for access.",
    ),
    CloseCode(DELETED, "deleted", True, "The document was deleted.", "Stop. Offer the local copy for export."),
    CloseCode(
        LINEAGE,
        "lineage",
        True,
        "The local copy belongs to another lineage of the document, or the client is too old.",
        "Put the local copy aside, update the client, load the document afresh.",
    ),
    CloseCode(
        TOO_LARGE,
        "too large",
        True,
        "A message, or the document with it, is over the limit.",
        "Stop. Offer the local copy for export or a fresh copy of the document.",
    ),
    CloseCode(RATE, "rate", False, "Too many messages in a short time.", "Slow down; reconnect with back-off."),
)

BY_CODE: Final[dict[int, CloseCode]] = {entry.code: entry for entry in CLOSE_CODES}
