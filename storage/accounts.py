"""Users, their sign-ins and refresh tokens, in SQL."""

from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection

from schemas.ids import SessionId, UserId
from schemas.roles import PlatformRole
from storage.contracts import StorageError
from storage.database import Rejected, SqlDatabase
from storage.tables import refresh_tokens, sessions, users


class EmailTaken(StorageError):
    """There is an account with this e-mail address already."""


@dataclass(frozen=True, slots=True)
class User:
    """An account. created_at: seconds since 1970."""

    id: UserId
    email: str
    name: str
    platform_role: PlatformRole
    created_at: float


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account and the hash its password must match."""

    user: User
    password_hash: str


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """One token of a session's family. token_hash: SHA-256 of the secret. expires_at: seconds since 1970."""

    token_hash: bytes
    session_id: SessionId
    expires_at: float


@dataclass(frozen=True, slots=True)
class Rotated:
    """The old token was good and is now used up; its successor is stored."""

    session_id: SessionId
    user: User


@dataclass(frozen=True, slots=True)
class Reused:
    """A used-up token was shown again: its whole family is revoked."""

    session_id: SessionId


@dataclass(frozen=True, slots=True)
class NotValid:
    """No such token, or it has expired, or its session has ended."""


Rotation = Rotated | Reused | NotValid

GRACE_SECONDS: Final = 10.0
"""For how long a used refresh token is honoured once more."""

_USER = (users.c.id, users.c.email, users.c.name, users.c.platform_role, users.c.created_at)


class Accounts:
    """The store of users and sessions. Moments are arguments: seconds since 1970."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database

    async def create(self, user: User, password_hash: str) -> None:
        """Store a new account. EmailTaken: the address, in any case of letters, has one."""
        try:
            await self._database.write(partial(_create, user, password_hash))
        except Rejected as error:
            raise EmailTaken("this e-mail address has an account") from error

    async def credentials(self, email: str) -> Credentials | None:
        """The account of an e-mail address. None: it has none."""
        return await self._database.read(partial(_credentials, email))

    async def set_password_hash(self, user_id: UserId, password_hash: str) -> None:
        """Replace a password's hash."""
        change = update(users).where(users.c.id == user_id).values(password_hash=password_hash)
        await self._database.write(lambda connection: connection.execute(change).close())

    async def open_session(self, user_id: UserId, first: RefreshToken, now: float) -> None:
        """Store a new sign-in with the first token of its family."""
        await self._database.write(partial(_open_session, user_id, first, now))

    async def signed_in(self, session_id: SessionId, user_id: UserId) -> User | None:
        """The user of a live session. None: it has ended, never was, or is somebody else's."""
        return await self._database.read(partial(_signed_in, session_id, user_id))

    async def rotate(self, token_hash: bytes, successor_hash: bytes, expires_at: float, now: float) -> Rotation:
        """Trade a refresh token for its successor.

        A token that was used less than `GRACE_SECONDS` ago is honoured once more: two tabs, or a lost answer.
        """
        return await self._database.write(partial(_rotate, token_hash, successor_hash, expires_at, now))

    async def end_session(self, session_id: SessionId, now: float) -> None:
        """Revoke a session; ending it again changes nothing."""
        await self._database.write(partial(_end_session, session_id, now))


def fold_email(email: str) -> str:
    """The form under which an e-mail address is stored and looked up."""
    return email.strip().lower()


def _create(user: User, password_hash: str, connection: Connection) -> None:
    connection.execute(
        insert(users).values(
            id=user.id,
            email=fold_email(user.email),
            name=user.name,
            password_hash=password_hash,
            platform_role=user.platform_role.value,
            created_at=user.created_at,
        )
    )


def _credentials(email: str, connection: Connection) -> Credentials | None:
    if not fold_email(
        email
    ).isprintable():  # nobody registered with it, and PostgreSQL refuses to look for NUL or half a character
        return None
    row = connection.execute(select(*_USER, users.c.password_hash).where(users.c.email == fold_email(email))).first()
    if row is None:
        return None
    return Credentials(User(row[0], row[1], row[2], PlatformRole(row[3]), row[4]), row[5])


def _open_session(user_id: UserId, first: RefreshToken, now: float, connection: Connection) -> None:
    connection.execute(insert(sessions).values(id=first.session_id, user_id=user_id, created_at=now))
    _add_token(first, connection)


def _add_token(token: RefreshToken, connection: Connection) -> None:
    connection.execute(
        insert(refresh_tokens).values(
            token_hash=token.token_hash, session_id=token.session_id, expires_at=token.expires_at
        )
    )


def _signed_in(session_id: SessionId, user_id: UserId | None, connection: Connection) -> User | None:
    query = (
        select(*_USER)
        .join(sessions, sessions.c.user_id == users.c.id)
        .where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None))
    )
    if user_id is not None:
        query = query.where(users.c.id == user_id)
    row = connection.execute(query).first()
    return None if row is None else User(row[0], row[1], row[2], PlatformRole(row[3]), row[4])


def _rotate(
    token_hash: bytes, successor_hash: bytes, expires_at: float, now: float, connection: Connection
) -> Rotation:
    row = connection.execute(
        select(refresh_tokens.c.session_id, refresh_tokens.c.expires_at, refresh_tokens.c.used_at)
        .where(refresh_tokens.c.token_hash == token_hash)
        .with_for_update()
    ).first()
    if row is None or row[1] <= now:
        return NotValid()
    session_id = SessionId(row[0])
    user = _signed_in(session_id, None, connection)
    if user is None:
        return NotValid()
    used_at: float | None = row[2]
    if used_at is not None and now - used_at >= GRACE_SECONDS:
        _end_session(session_id, now, connection)
        return Reused(session_id)
    if used_at is None:
        connection.execute(update(refresh_tokens).where(refresh_tokens.c.token_hash == token_hash).values(used_at=now))
    connection.execute(
        delete(refresh_tokens).where(refresh_tokens.c.session_id == session_id, refresh_tokens.c.expires_at <= now)
    )
    _add_token(RefreshToken(successor_hash, session_id, expires_at), connection)
    return Rotated(session_id, user)


def _end_session(session_id: SessionId, now: float, connection: Connection) -> None:
    connection.execute(
        update(sessions).where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    connection.execute(delete(refresh_tokens).where(refresh_tokens.c.session_id == session_id))
