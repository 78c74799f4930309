"""The errors this server raises, named for what the caller can do about them."""


class ConstructureError(Exception):
    """Root of every error raised by this package."""


class ProtocolViolation(ConstructureError):
    """Bytes from the network are not what their format says; the sender's socket is closed with `code`.

    reason: a short English sentence naming what was wrong; never holds content of the document.
    code: a WebSocket close code of the table in `protocol.closes` (4400 violation, 4413 too large).
    """

    def __init__(self, reason: str, code: int = 4400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
