"""The examples of README.md that are marked runnable do what it says."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.server_process import REPOSITORY, ServerProcess

BLOCK = re.compile(r"<!-- runnable -->\n```(\w+)\n(.*?)```", re.DOTALL)
NODE_FOLDER = REPOSITORY / "tests" / "conformance"
SECONDS = 60


@pytest.fixture(scope="module")
def blocks() -> list[tuple[str, str]]:
    """Language and text of each runnable block, in order."""
    return [(match[1], match[2]) for match in BLOCK.finditer((REPOSITORY / "README.md").read_text(encoding="utf-8"))]


def run(command: list[str], folder: Path) -> str:
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_first_use_opens_a_new_course_in_a_stock_client(tmp_path: Path, blocks: list[tuple[str, str]]) -> None:
    assert [language for language, _ in blocks] == ["sh", "js"]
    shell, script = (text for _, text in blocks)
    # Several versions of the package stand side by side in the folder of the stock clients.
    page = tmp_path / "first-use.mjs"
    page.write_text(script.replace("'y-websocket'", "'y-websocket-3'"), encoding="utf-8")
    # Node before 22 has WebSocket behind a flag.
    node = f'node --experimental-websocket --input-type=module < "{page}"'

    with ServerProcess(tmp_path / "server", {"drain_seconds": "0"}) as server:
        shell = shell.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}", 1)
        output = run(["bash", "-eo", "pipefail", "-c", f"{shell}\n{node}"], NODE_FOLDER).splitlines()

    door = json.loads(output[0])
    assert {"url", "token", "role", "lineage", "schema", "expires_in"} == set(door)
    assert output[1] == "Sorting"
