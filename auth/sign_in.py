"""Registering, signing in, staying signed in and signing out."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from uuid6 import uuid7

from auth.passwords import Passwords, PasswordsBusy
from auth.policy import Principal
from auth.tokens import InvalidToken, Tokens, new_refresh_token, refresh_token_hash
from schemas.ids import SessionId, UserId
from schemas.roles import PlatformRole
from storage.accounts import Accounts, RefreshToken, Rotated, User, fold_email


class RegistrationClosed(Exception):
    """Nobody may register here."""


class WrongCredentials(Exception):
    """No account has this e-mail address and password; which of the two is wrong is not said."""


class NotSignedIn(Exception):
    """The token is not valid, or its sign-in has ended."""


class TooManyAttempts(Exception):
    """Too many failures for this e-mail address. retry_after: seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many attempts for this e-mail address")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A sign-in that has just begun or was renewed. expires_in: seconds the access token lives."""

    user: User
    access_token: str
    refresh_token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class SignInRules:
    """refresh_lifetime: seconds a refresh token lives. attempts_per_minute: failures per e-mail address."""

    registration_open: bool = True
    refresh_lifetime: float = 30 * 86_400
    attempts_per_minute: int = 5


def new_id() -> UUID:
    """A UUIDv7: ids made later sort later."""
    return UUID(int=uuid7().int)


class SignIn:
    """The only way to become a principal. clock: seconds since 1970."""

    def __init__(
        self,
        accounts: Accounts,
        passwords: Passwords,
        tokens: Tokens,
        rules: SignInRules,
        *,
        clock: Callable[[], float] = time.time,
        make_id: Callable[[], UUID] = new_id,
    ) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._tokens = tokens
        self._rules = rules
        self._clock = clock
        self._make_id = make_id
        self._attempts = FixedWindowRateLimiter(MemoryStorage())
        self._allowance = RateLimitItemPerMinute(rules.attempts_per_minute)

    async def register(self, email: str, name: str, password: str) -> SignedIn:
        """A new account, signed in. Raises RegistrationClosed, EmailTaken, TooManyAttempts, PasswordsBusy."""
        if not self._rules.registration_open:
            raise RegistrationClosed("registration is closed")
        await self._count_attempt("register", email)
        password_hash = await self._passwords.hash(password)
        user = User(UserId(self._make_id()), fold_email(email), name, PlatformRole.TEACHER, self._clock())
        await self._accounts.create(user, password_hash)
        await self._attempts.clear(self._allowance, "register", fold_email(email))
        return await self._begin(user)

    async def login(self, email: str, password: str) -> SignedIn:
        """A new sign-in. Raises WrongCredentials, TooManyAttempts, PasswordsBusy."""
        await self._count_attempt("login", email)
        found = await self._accounts.credentials(email)
        verified = await self._passwords.verify(password, found.password_hash if found else None)
        if found is None or verified is None:
            raise WrongCredentials("e-mail or password is wrong")
        await self._attempts.clear(self._allowance, "login", fold_email(email))
        if verified.new_hash is not None:
            await self._accounts.set_password_hash(found.user.id, verified.new_hash)
        return await self._begin(found.user)

    async def refresh(self, refresh_token: str) -> SignedIn:
        """The sign-in renewed; the old refresh token is used up. Raises NotSignedIn, also when it was used before."""
        successor = new_refresh_token()
        now = self._clock()
        rotation = await self._accounts.rotate(
            refresh_token_hash(refresh_token), refresh_token_hash(successor), now + self._rules.refresh_lifetime, now
        )
        if not isinstance(rotation, Rotated):
            raise NotSignedIn("the refresh token is not valid")
        return self._signed_in(rotation.user, rotation.session_id, successor)

    async def logout(self, session_id: SessionId) -> None:
        """End a sign-in: its access, refresh and connect tokens are worth nothing from now on."""
        await self._accounts.end_session(session_id, self._clock())

    async def authenticate(self, access_token: str) -> tuple[Principal, User]:
        """Who holds this access token. Raises NotSignedIn, also when the sign-in has ended since."""
        try:
            claims = self._tokens.read_access(access_token)
        except InvalidToken as error:
            raise NotSignedIn(str(error)) from error
        user = await self._accounts.signed_in(claims.session_id, claims.user_id)
        if user is None:
            raise NotSignedIn("the sign-in has ended")
        return Principal(user.id, claims.session_id, user.platform_role), user

    async def _count_attempt(self, what: str, email: str) -> None:
        # Refused before it is counted: so the counters are bounded by what the password threads can take.
        if self._passwords.full:
            raise PasswordsBusy("too many sign-ins at once")
        key = fold_email(email)
        # Counted before the password is checked: a thousand tries at once are not a thousand checks.
        if not await self._attempts.hit(self._allowance, what, key):
            window = await self._attempts.get_window_stats(self._allowance, what, key)
            raise TooManyAttempts(max(1, math.ceil(window.reset_time - time.time())))

    async def _begin(self, user: User) -> SignedIn:
        session_id = SessionId(self._make_id())
        token = new_refresh_token()
        now = self._clock()
        first = RefreshToken(refresh_token_hash(token), session_id, now + self._rules.refresh_lifetime)
        await self._accounts.open_session(user.id, first, now)
        return self._signed_in(user, session_id, token)

    def _signed_in(self, user: User, session_id: SessionId, refresh_token: str) -> SignedIn:
        access_token = self._tokens.access(user.id, session_id)
        return SignedIn(user, access_token, refresh_token, self._tokens.access_lifetime)
