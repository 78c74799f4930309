"""Notes every path that this process and those it starts open for writing, make, move or remove.

Put on PYTHONPATH as `sitecustomize.py`, so that it is there before anything else. Writes lines of process id, event and path,
parted by tabs, to the file named by WRITES_SEEN. It sees Python code and SQLite's files, not what other C code opens by itself.
"""

import os
import sys
from typing import Final

_CHANGES: Final = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
}  # fmt: skip
_TWO_PATHS: Final = {"os.link", "os.rename", "os.symlink"}
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _paths(event: str, arguments: tuple[object, ...]) -> tuple[object, ...]:
    """The paths that an audit event changes; none when it only reads."""
    if event == "open":
        path, _, flags = arguments
        return (path,) if isinstance(flags, int) and flags & _WRITING else ()
    if event == "sqlite3.connect":
        return arguments[:1]
    if event in _CHANGES:
        return arguments[: 2 if event in _TWO_PATHS else 1]
    return ()


def _watch() -> None:
    # Opened before the hook is there, and only ever appended to: many processes share it.
    seen = os.open(os.environ["WRITES_SEEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(event: str, arguments: tuple[object, ...]) -> None:
        for path in _paths(event, arguments):
            if isinstance(path, str | bytes | os.PathLike):
                line = f"{os.getpid()}\t{event}\t{os.path.abspath(os.fsdecode(path))}\n"
                os.write(seen, line.encode())

    sys.addaudithook(note)


if "WRITES_SEEN" in os.environ:
    _watch()
