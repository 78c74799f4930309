"""How much memory another process holds."""

import psutil  # type: ignore[import-untyped]


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process, its workers left out."""
    return int(psutil.Process(pid).memory_info().rss)
