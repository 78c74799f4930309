"""What every test may ask for. Folders add their own fixtures in a conftest of their own."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the top folder of the repository."""
    return Path(__file__).resolve().parent.parent
