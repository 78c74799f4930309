"""Which database a URL names."""

from urllib.parse import urlsplit

from storage.contracts import StorageError


def is_postgres(url: str) -> bool:
    """True for `postgresql://` and `postgres://`, False for `sqlite://`. StorageError: another scheme."""
    scheme = urlsplit(url).scheme
    if scheme in ("postgresql", "postgres"):
        return True
    if scheme == "sqlite":
        return False
    raise StorageError(f'unknown database scheme "{scheme}"; known: sqlite, postgresql')
