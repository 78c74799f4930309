"""A long-lived Node process that is asked in frames: four bytes of length, big-endian, then so many bytes."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

FOLDER: Final = Path(__file__).resolve().parent
END_SECONDS: Final = 20.0


class NodeProcess:
    """Runs one script of this folder. A context manager; what Node prints to standard error is shown."""

    def __init__(self, script: str) -> None:
        node = shutil.which("node")
        if node is None:
            raise RuntimeError("node is not on the PATH; these tests need Node 20 or newer")
        self._process = subprocess.Popen(
            [node, str(FOLDER / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def ask(self, request: bytes) -> bytes:
        """Send one frame and return the answer. Raises RuntimeError when Node has ended."""
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None
        assert sink is not None
        sink.write(len(request).to_bytes(4, "big") + request)
        sink.flush()
        head = source.read(4)
        if len(head) < 4:
            raise RuntimeError("the Node process has ended; its error is above")
        size = int.from_bytes(head, "big")
        answer = source.read(size)
        if len(answer) < size:
            raise RuntimeError("the Node process has ended; its error is above")
        return answer

    def stop(self) -> None:
        """End the process."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
