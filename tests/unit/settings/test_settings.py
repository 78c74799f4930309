"""Settings: defaults that run, faults that are named, and the secret key."""

import stat
from pathlib import Path

import pytest

from constructure_sync.settings import Settings, SettingsError, load_secret_key, load_settings
from storage.database import DatabaseOptions

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CONSTRUCTURE_{name.upper()}", raising=False)


def test_the_defaults_are_the_embedded_world() -> None:
    settings = load_settings()
    assert settings.database_address == "sqlite:///data/constructure.db"
    assert settings.bus_url == "local:"
    assert settings.public_address(settings.port) == "http://127.0.0.1:8000"
    assert settings.listens_on_loopback


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSTRUCTURE_DATA_DIR", "elsewhere")
    monkeypatch.setenv("CONSTRUCTURE_PUBLIC_URL", "https://courses.example.org/")
    monkeypatch.setenv("CONSTRUCTURE_ALLOWED_ORIGINS", "https://A.example.org, https://b.example.org/ ,")
    monkeypatch.setenv("CONSTRUCTURE_REGISTRATION_OPEN", "false")
    settings = load_settings()
    assert settings.database_address == "sqlite:///elsewhere/constructure.db"
    assert settings.public_address(1) == "https://courses.example.org"
    assert settings.allowed_origins == ("https://a.example.org", "https://b.example.org")
    assert not settings.registration_open


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TRUSTED_PROXIES", "10.0.0.0/8, proxy", 'CONSTRUCTURE_TRUSTED_PROXIES: "proxy" is no address or network'),
        ("BUS_URL", "kafka://host", 'CONSTRUCTURE_BUS_URL: unknown scheme "kafka"; known: local, redis, rediss'),
        ("DATABASE_URL", "mysql://host/db", 'CONSTRUCTURE_DATABASE_URL: unknown scheme "mysql"; known: sqlite'),
        ("PUBLIC_URL", "courses.example.org", "CONSTRUCTURE_PUBLIC_URL: must be http"),
        ("PUBLIC_URL", "https://example.org/path", "CONSTRUCTURE_PUBLIC_URL: must be http"),
        ("ALLOWED_ORIGINS", "example.org", 'CONSTRUCTURE_ALLOWED_ORIGINS: "example.org" is no origin'),
        ("SECRET_KEY", "short", "CONSTRUCTURE_SECRET_KEY: must have at least 32 characters"),
        ("PORT", "abc", "CONSTRUCTURE_PORT: "),
        ("PORT", "65536", "CONSTRUCTURE_PORT: "),
        ("MAX_CONNECTIONS", "0", "CONSTRUCTURE_MAX_CONNECTIONS: "),
        ("KEEPALIVE_SECONDS", "30", "CONSTRUCTURE_KEEPALIVE_SECONDS: "),
        ("VIEWER_FRAME_BYTES", "100000000", "CONSTRUCTURE_VIEWER_FRAME_BYTES: must not exceed"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str) -> None:
    monkeypatch.setenv(f"CONSTRUCTURE_{variable}", value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert str(raised.value).startswith(message)


def test_every_bad_value_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSTRUCTURE_PORT", "abc")
    monkeypatch.setenv("CONSTRUCTURE_BUS_URL", "kafka:")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert len(str(raised.value).splitlines()) == 2


def test_a_secret_never_shows_in_an_error_or_a_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSTRUCTURE_SECRET_KEY", SECRET)
    assert SECRET not in repr(load_settings())
    monkeypatch.setenv("CONSTRUCTURE_SECRET_KEY", "too-short-secret")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert "too-short-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_loopback_is_known_by_its_address(host: str, loopback: bool) -> None:
    assert Settings(host=host).listens_on_loopback is loopback


def test_an_ipv6_host_is_bracketed_in_the_public_url() -> None:
    assert Settings(host="::1").public_address(80) == "http://[::1]:80"


def test_the_secret_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    key = load_secret_key(settings)
    assert len(key) >= 32
    assert load_secret_key(settings) == key
    assert load_secret_key(Settings(data_dir=tmp_path / "other")) != key
    kept = tmp_path / "new" / "secret.key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [each.name for each in kept.parent.iterdir()] == ["secret.key"]


def test_the_setting_stands_before_the_file(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "secret_key": SECRET})
    assert load_secret_key(settings) == SECRET.encode()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_key_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_text("")
    with pytest.raises(SettingsError, match=r"CONSTRUCTURE_SECRET_KEY: .* fewer than 32"):
        load_secret_key(Settings(data_dir=tmp_path))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="CONSTRUCTURE_DATA_DIR"):
        load_secret_key(Settings(data_dir=tmp_path / "file" / "data"))


def test_the_database_is_used_as_the_settings_say() -> None:
    settings = Settings(
        database_timeout_seconds=7,
        database_lock_seconds=2,
        database_connections=30,
        database_pooler=True,
        database_accepts_unsafe_durability=True,
    )
    assert settings.database_options == DatabaseOptions(
        time_limit=7, lock_limit=2, connections=30, is_pooled=True, accepts_unsafe_durability=True
    )
