"""The benchmarks run and end right: each load is followed by a check of what every client holds. No figure is looked at."""

import subprocess
import sys

from tests.server_process import REPOSITORY

_SECONDS = 300.0
_LOADS = ("idle", "saturation", "joins", "rejoin")


def test_the_loads_of_the_benchmarks_end_with_all_clients_holding_the_same() -> None:
    command = [sys.executable, "-m", "benchmarks", "own", "--smoke", *_LOADS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"== {load}:" in done.stdout for load in _LOADS)
