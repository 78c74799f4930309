"""PostgreSQL without a server: which of its errors are ours, and what of a URL it gets."""

import pytest

from storage.contracts import StorageError, StorageUnavailable
from storage.database import DatabaseAway
from storage.postgres import postgres_dsn, translated_state


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (None, DatabaseAway),  # the connection broke
        ("08006", DatabaseAway),
        ("57P01", DatabaseAway),  # it shuts down
        ("57P02", DatabaseAway),  # it crashed
        ("57P03", DatabaseAway),  # it starts
        ("53300", DatabaseAway),  # too many connections
        ("53100", StorageUnavailable),  # disk full
        ("40001", StorageUnavailable),  # serialization failure
        ("40P01", StorageUnavailable),  # deadlock
        ("55P03", StorageUnavailable),  # lock timeout
        ("57014", StorageUnavailable),  # statement timeout
        ("25006", StorageUnavailable),  # a standby, after a failover
        ("28P01", StorageUnavailable),  # a password that is being changed
        ("42P01", StorageUnavailable),  # a table that a restore has not brought yet
        ("XX001", StorageUnavailable),  # a damaged page
        ("22021", StorageError),  # NUL in a text
        ("42601", StorageError),  # a statement that means nothing
    ],
)
def test_errors_of_the_server_are_ours(state: str | None, kind: type[StorageError]) -> None:
    assert type(translated_state(state, "words")) is kind


@pytest.mark.parametrize(
    ("url", "dsn"),
    [
        ("postgres://host/db", "postgresql://host/db"),
        ("postgresql://u:p%40ss@host:6000/db", "postgresql://u:p%40ss@host:6000/db"),
        (
            "postgresql://a:1,b:2/db?target_session_attrs=read-write",
            "postgresql://a:1,b:2/db?target_session_attrs=read-write",
        ),
        ("postgresql://h/db?sslmode=require&channel_binding=require", "postgresql://h/db?sslmode=require"),
        ("postgresql:///db?host=%2Frun%2Fpg&keepalives=1", "postgresql:///db?host=%2Frun%2Fpg"),
    ],
)
def test_a_url_keeps_what_the_driver_knows(url: str, dsn: str) -> None:
    assert postgres_dsn(url) == dsn


@pytest.mark.parametrize("url", ["postgresql://", "postgresql://host", "postgresql:///db", "postgresql://[::1/db"])
def test_a_url_that_names_no_database_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="database URL"):
        postgres_dsn(url)
