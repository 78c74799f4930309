"""Access and connect tokens: JWTs signed with Ed25519, one fixed algorithm, told apart by `typ` and `aud`."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OKPKey

from schemas.ids import CourseId, SessionId, UserId
from schemas.roles import Role

ALGORITHM: Final = "Ed25519"
ISSUER: Final = "constructure-sync"
MAX_TOKEN_BYTES: Final = 8 * 1024

_ACCESS: Final = "at+jwt"
_CONNECT: Final = "connect+jwt"
_AUDIENCE: Final = {_ACCESS: "constructure-sync/api", _CONNECT: "constructure-sync/connect"}


class InvalidToken(Exception):
    """The token is forged, damaged, expired, or of another kind. The message holds no part of it."""


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What an access token says. expires_at: seconds since 1970."""

    user_id: UserId
    session_id: SessionId
    expires_at: int


@dataclass(frozen=True, slots=True)
class ConnectClaims:
    """What a connect token says. role and lineage are those of the moment it was made."""

    user_id: UserId
    session_id: SessionId
    expires_at: int
    course_id: CourseId
    role: Role
    lineage: UUID


class Tokens:
    """Makes and reads tokens. Lifetimes in seconds; clock: seconds since 1970."""

    def __init__(
        self,
        secret: bytes,
        *,
        access_lifetime: int = 15 * 60,
        connect_lifetime: int = 60 * 60,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        seed = hmac.digest(secret, b"constructure-sync token signing key 1", "sha256")
        self._key = OKPKey.import_key(Ed25519PrivateKey.from_private_bytes(seed))
        self.access_lifetime = access_lifetime
        self.connect_lifetime = connect_lifetime
        self._clock = clock
        self._new_id = new_id

    def access(self, user_id: UserId, session_id: SessionId) -> str:
        """A token for the REST API."""
        return self._sign(_ACCESS, user_id, session_id, self.access_lifetime, {})

    def connect(self, user_id: UserId, session_id: SessionId, course_id: CourseId, role: Role, lineage: UUID) -> str:
        """A token that opens sockets of one course."""
        extra = {"course": str(course_id), "role": role.value, "lineage": str(lineage)}
        return self._sign(_CONNECT, user_id, session_id, self.connect_lifetime, extra)

    def read_access(self, token: str) -> AccessClaims:
        """The claims of an access token. Raises InvalidToken."""
        claims = self._verify(token)
        if not isinstance(claims, AccessClaims):
            raise InvalidToken("another kind of token is needed here")
        return claims

    def read(self, token: str) -> AccessClaims | ConnectClaims:
        """The claims of a token that may open a socket: either kind does. Raises InvalidToken."""
        return self._verify(token)

    def _sign(self, kind: str, user_id: UserId, session_id: SessionId, lifetime: int, extra: Mapping[str, str]) -> str:
        now = int(self._clock())
        claims = {
            "iss": ISSUER,
            "aud": _AUDIENCE[kind],
            "sub": str(user_id),
            "sid": str(session_id),
            "jti": str(self._new_id()),
            "iat": now,
            "exp": now + lifetime,
            **extra,
        }
        return jwt.encode({"alg": ALGORITHM, "typ": kind}, claims, self._key, algorithms=[ALGORITHM])

    def _verify(self, token: str) -> AccessClaims | ConnectClaims:
        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidToken("the token is too long")
        try:
            decoded = jwt.decode(token, self._key, algorithms=[ALGORITHM])
            kind = decoded.header.get("typ")
            # Exactly ours: no key, URL or extension that a forger would have us follow.
            if decoded.header != {"alg": ALGORITHM, "typ": kind} or kind not in _AUDIENCE:
                raise InvalidToken("another kind of token is needed here")
            jwt.JWTClaimsRegistry(
                now=int(self._clock()),
                iss={"essential": True, "value": ISSUER},
                aud={"essential": True, "value": _AUDIENCE[kind]},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(decoded.claims)
            return _claims(kind, decoded.claims)
        except InvalidToken:
            raise
        except Exception as error:  # Hostile bytes: whatever a parser makes of them, they are no token of ours.
            raise InvalidToken("the token is not valid") from error


def _claims(kind: str, claims: Mapping[str, object]) -> AccessClaims | ConnectClaims:
    user_id, session_id = UserId(UUID(str(claims["sub"]))), SessionId(UUID(str(claims["sid"])))
    expires_at = claims["exp"]
    if not isinstance(expires_at, int):
        raise InvalidToken("the token has no time of expiry")
    if kind == _ACCESS:
        return AccessClaims(user_id, session_id, expires_at)
    return ConnectClaims(
        user_id=user_id,
        session_id=session_id,
        expires_at=expires_at,
        course_id=CourseId(UUID(str(claims["course"]))),
        role=Role(str(claims["role"])),
        lineage=UUID(str(claims["lineage"])),
    )


def new_refresh_token() -> str:
    """A refresh token: 256 random bits, opaque."""
    return secrets.token_urlsafe(32)


def refresh_token_hash(token: str) -> bytes:
    """What is stored of a refresh token; 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).digest()
