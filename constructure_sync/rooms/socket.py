"""What a room needs of a socket. `transport` implements it; tests and the simulator bring their own (R14)."""

from typing import Protocol


class Socket(Protocol):
    """One open WebSocket, seen from the room. Every call is synchronous and harmless after the socket's end."""

    @property
    def buffered(self) -> int:
        """Bytes written and not yet taken by the operating system."""
        ...

    def write(self, framed: bytes) -> None:
        """Hand over already framed bytes. Never blocks."""
        ...

    def pause_reading(self) -> None:
        """Deliver no further message, not even one already read from the network, until `resume_reading`."""
        ...

    def resume_reading(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the TCP connection ends soon after, whatever the peer does."""
        ...

    def ping(self) -> None: ...
