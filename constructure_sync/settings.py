"""Every setting of the server: its default, its unit, and what happens when it is changed.

Read from the environment (`CONSTRUCTURE_` and the name in capitals). `docs/configuration.md` lists them all.
"""

import ipaddress
import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from storage.database import DatabaseOptions

PREFIX: Final = "CONSTRUCTURE_"
KIB: Final = 1024
MIB: Final = 1024 * 1024
MIN_SECRET_BYTES: Final = 32

_ORIGIN: Final = re.compile(r"https?://[^/?#@\s]+")


class SettingsError(Exception):
    """A setting has a value that cannot be used; the message names the variable and what is wrong with it."""


class Settings(BaseSettings):
    """The settings of one server process. Made by `load_settings`, which turns every fault into a SettingsError."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", validate_default=False)

    data_dir: Path = Field(
        Path("data"),
        description="Folder of the embedded database and the secret key. Made when absent. Moving it moves all data.",
    )
    database_url: str = Field(
        "",
        description="Where users, courses and updates are stored: `sqlite:///path`, or `postgresql://user@host/database` "
        "for several machines. Empty: `<data>/constructure.db`.",
    )
    bus_url: str = Field(
        "local:",
        description="How instances tell one another of new updates: `redis://host:port` (Redis 6.2 or newer, or Valkey), "
        "`rediss://` with TLS. `local:` is for a single instance.",
    )
    bus_prefix: str = Field(
        "constructure",
        pattern="^[A-Za-z0-9_.-]{1,64}$",
        description="First part of the names of all Redis channels. Deployments that share a Redis need different ones.",
    )
    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on. `0.0.0.0` lets other machines connect."
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on. 0 takes any free one.")
    secret_key: SecretStr | None = Field(
        None,
        description="At least 32 characters; signing keys are derived from it. Unset: made once, kept in "
        "`<data>/secret.key`. Changing it signs everybody out.",
    )
    public_url: str = Field(
        "",
        description="The address under which browsers reach this server; connect answers and the origin check use it. "
        "Empty: `http://host:port`.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may connect, separated by commas. Empty: the public URL's origin, and any "
        "loopback origin while listening on loopback.",
    )
    registration_open: bool = Field(
        True, description="Whether anybody may register. Off: only existing accounts can sign in."
    )

    access_token_minutes: float = Field(
        15, gt=0, le=1440, description="Life of an access token, in minutes. Longer: fewer refreshes, later sign-outs."
    )
    connect_token_minutes: float = Field(
        60,
        gt=0,
        le=1440,
        description="Life of a connect token, in minutes: for so long a provider reconnects by itself.",
    )
    refresh_token_days: float = Field(
        30, gt=0, le=365, description="Days after which a user who was away must sign in with the password again."
    )
    sign_in_attempts_per_minute: int = Field(
        5, ge=1, le=1000, description="Failed sign-ins or registrations per e-mail address in a minute; then 429."
    )
    password_threads: int = Field(
        2, ge=1, le=64, description="Passwords hashed at once; each takes a core and 64 MiB for about 0.1 s."
    )

    max_document_bytes: int = Field(
        32 * MIB, ge=64 * KIB, description="Size a document may reach, in bytes, and the largest frame of a writer."
    )
    viewer_frame_bytes: int = Field(
        64 * KIB, ge=KIB, description="Largest frame of a connection that may not write, in bytes; more closes it."
    )
    awareness_bytes: int = Field(
        4096, ge=64, description="Largest presence state of one client, in bytes; a larger one is refused."
    )
    awareness_per_second: int = Field(
        30, ge=1, description="Own presence changes a connection may send per second; more are dropped."
    )
    max_connections: int = Field(
        10_000, ge=1, description="WebSockets this instance holds; one more is answered with 503."
    )
    max_connections_per_user: int = Field(
        200, ge=1, description="WebSockets of one user; one more is answered with 429."
    )
    max_connections_per_address: int = Field(
        2000, ge=1, description="WebSockets from one address, such as a school; one more is answered with 429."
    )
    unsaved_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        description="Accepted but unsaved updates this instance holds while the database is away, in bytes; at the "
        "bound writers are sent away with 1013.",
    )
    in_flight_bytes: int = Field(
        128 * MIB,
        ge=MIB,
        description="Large frames received and not yet taken, over all connections, in bytes; at the bound the "
        "next is sent away with 1013.",
    )
    worker_frame_bytes: int = Field(
        64 * KIB,
        ge=KIB,
        description="Frames above this many bytes are read in a worker while their socket pauses. Higher: longer "
        "pauses of the event loop.",
    )

    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks of proxies whose X-Forwarded-For is believed, separated by commas. Empty: "
        "everybody behind a proxy counts as one address.",
    )

    room_idle_seconds: float = Field(
        30, ge=0, description="How long a document without connections stays in memory. Longer: quicker rejoining."
    )
    keepalive_seconds: float = Field(
        15,
        gt=0,
        le=25,
        description="Silence after which a connection is sent an empty presence message. Stock clients give up after "
        "30.",
    )
    stuck_socket_seconds: float = Field(
        30, gt=0, description="A connection that took no byte for so long while something waits is closed."
    )
    close_delay_seconds: float = Field(
        1,
        ge=0,
        le=10,
        description="Wait before a close with a permanent code (44xx), in seconds: older clients come back at once "
        "whatever the code. 0 closes at once.",
    )
    drain_seconds: float = Field(
        5, ge=0, le=300, description="Time over which clients are sent away after SIGTERM. Longer: gentler reconnects."
    )

    log_batch_updates: int = Field(
        2000, ge=1, description="Most updates saved in one transaction. Fewer: shorter transactions, more fsyncs."
    )
    log_batch_bytes: int = Field(
        8 * MIB, ge=64 * KIB, description="Most bytes of updates saved in one transaction; a larger update goes alone."
    )
    database_timeout_seconds: float = Field(
        10, gt=0, le=600, description="Longest wait for one transaction; then the database counts as away."
    )
    database_connections: int = Field(
        10,
        ge=2,
        le=1000,
        description="Connections to PostgreSQL of this process, half for writing, half for reading. All processes together "
        "must stay below the server's `max_connections`.",
    )
    database_lock_seconds: float = Field(
        1,
        gt=0,
        le=60,
        description="How long a transaction waits for a row that another one holds; then each document is saved by itself, and "
        "the locked one is tried again.",
    )
    database_pooler: bool = Field(
        False,
        description="Whether a pooler in transaction mode (PgBouncer, Supavisor …) stands before PostgreSQL. On: statements are "
        "not kept prepared, each costs more.",
    )
    database_accepts_unsafe_durability: bool = Field(
        False,
        description="Start although PostgreSQL runs with `fsync` or `full_page_writes` off: a crash of its machine may then lose "
        "edits that were acknowledged.",
    )
    segment_bytes: int = Field(
        256 * KIB,
        ge=4 * KIB,
        description="Size at which updates are folded into a segment, in bytes. Larger: longer folding, fewer frames.",
    )
    raw_row_retention_days: float = Field(
        90,
        ge=0,
        description="Days for which updates are kept after compaction, for history and repair; ten minutes at least.",
    )
    sweep_minutes: float = Field(
        10,
        ge=0.1,
        le=1440,
        description="Minutes between two passes over the logs of documents at rest, by one of all instances. Longer: "
        "long tails and rows past their time stay longer.",
    )
    replica_workers: int = Field(
        2,
        ge=1,
        le=64,
        description="Worker processes that read large frames and long logs. About 60 MiB each, and two more for merging "
        "and projections.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Server processes on this machine that share the port. More than one needs a Redis bus between them.",
    )
    startup_wait_seconds: float = Field(
        30, ge=0, le=600, description="How long a start waits for a database that does not answer yet."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe log line that is written to standard error."
    )

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f'"{origin}" is no origin; an example: https://courses.example.org')
        return tuple(origin.lower() for origin in value)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(f'"{network}" is no address or network; an example: 10.0.0.0/8') from None
        return value

    @field_validator("bus_url")
    @classmethod
    def _check_bus(cls, value: str) -> str:
        _check_scheme(value, ("local", "redis", "rediss"))
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if value:
            _check_scheme(value, ("sqlite", "postgresql", "postgres"))
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public(cls, value: str) -> str:
        value = value.rstrip("/")
        if value and not _ORIGIN.fullmatch(value):
            raise ValueError("must be http:// or https://, a host and perhaps a port, without a path")
        return value

    @field_validator("secret_key")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"must have at least {MIN_SECRET_BYTES} characters")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.viewer_frame_bytes > self.max_document_bytes:
            raise ValueError(f"{PREFIX}VIEWER_FRAME_BYTES: must not exceed {PREFIX}MAX_DOCUMENT_BYTES")
        if self.database_url.startswith("postgres") and self.secret_key is None:
            raise ValueError(f"{PREFIX}SECRET_KEY: must be set with PostgreSQL, the same for all instances")
        return self

    @property
    def database_address(self) -> str:
        """The database URL in effect."""
        return self.database_url or f"sqlite:///{self.data_dir / 'constructure.db'}"

    @property
    def database_options(self) -> DatabaseOptions:
        """How the database is used."""
        return DatabaseOptions(
            time_limit=self.database_timeout_seconds,
            lock_limit=self.database_lock_seconds,
            connections=self.database_connections,
            is_pooled=self.database_pooler,
            accepts_unsafe_durability=self.database_accepts_unsafe_durability,
        )

    @property
    def listens_on_loopback(self) -> bool:
        """True when only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def public_address(self, port: int) -> str:
        """The public URL in effect when listening on `port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{port}"


def _check_scheme(url: str, known: tuple[str, ...]) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in known:
        raise ValueError(f'unknown scheme "{scheme}"; known: {", ".join(known)}')


def load_settings() -> Settings:
    """The settings of the environment. SettingsError: one line for each value that cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_line(each["loc"], each["msg"]) for each in error.errors())) from error


def _line(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{PREFIX}{str(location[0]).upper()}: {message}" if location else message


def load_secret_key(settings: Settings) -> bytes:
    """The secret key: from the setting, else from `<data>/secret.key`, which is made on first use (mode 0600).

    SettingsError: the file cannot be read or made, or holds too little.
    """
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value().encode()
    path = settings.data_dir / "secret.key"
    try:
        if not path.exists():
            _make_secret(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"{PREFIX}DATA_DIR: {path} cannot be read or made: {error.strerror}") from error
    if len(key) < MIN_SECRET_BYTES:
        raise SettingsError(f"{PREFIX}SECRET_KEY: {path} holds fewer than {MIN_SECRET_BYTES} characters")
    return key


def _make_secret(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_urlsafe(48).encode())
        file.flush()
        os.fsync(file.fileno())
    # A link, not a rename: of two servers starting at once the second keeps what the first made.
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
