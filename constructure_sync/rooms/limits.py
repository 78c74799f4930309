"""The limits of a room and its connections, as plain numbers (design §7). `services` fills them from the settings."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """Bytes and seconds. A test states the edge of each; a metric counts how often it was reached."""

    max_document_bytes: int = 32 * MIB
    viewer_frame_bytes: int = 64 * KIB
    awareness_frame_bytes: int = 64 * KIB
    awareness_entry_bytes: int = 4 * KIB
    awareness_per_second: int = 30
    awareness_ids: int = 4
    worker_frame_bytes: int = 64 * KIB
    in_flight_bytes: int = 128 * MIB
    segment_bytes: int = 256 * KIB
    fold_entries: int = 4096
    resync_interval: float = 10.0
    keepalive: float = 15.0
    presence_timeout: float = 30.0
    idle_grace: float = 30.0
    close_delay: float = 1.0
    conveyed_grace: float = 5.0
    hole_grace: float = 0.05
    head_look: float = 4.5
    subscribe_timeout: float = 1.0
    load_timeout: float = 30.0
    worker_timeout: float = 60.0
    heal_timeout: float = 600.0
