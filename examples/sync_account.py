"""Signing in over REST, staying signed in, and the token that opens a course's socket. Standard library only."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

REST_SECONDS = 30.0


class SyncError(Exception):
    """Root of what this client raises. is_final: trying again is pointless until something else has changed."""

    is_final = False


class Unreachable(SyncError):
    """The server did not answer, or the line broke."""


class Refused(SyncError):
    """The server answered no. status: HTTP, or the close code of a WebSocket. code: stable, such as `forbidden`."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.is_final = status in (400, 403, 404, 409, 413, 422) or (4400 <= status < 4500 and status != 4401)

    @property
    def needs_sign_in(self) -> bool:
        """Whether a new token would help."""
        return self.status in (401, 4401)


@dataclass(frozen=True, slots=True)
class Door:
    """What opens a course's socket. expires_at: seconds since 1970; lifetime: seconds."""

    url: str
    course: str
    token: str
    role: str
    lineage: str
    expires_at: float
    lifetime: float

    def is_fresh(self) -> bool:
        """Whether the token will live for a good while yet."""
        return self.expires_at - time.time() > 0.2 * self.lifetime


class Account:
    """A user at one server. Signs in when first needed, renews itself, and signs in again when that does not help.

    refresh_token: of an earlier run, instead of the password. on_refresh_token: told each new one; a refresh token is good
    for one use, and using it twice ends the sign-in. Calls block: from asyncio use `asyncio.to_thread`.
    """

    def __init__(
        self,
        server: str,
        email: str,
        password: str | None,
        refresh_token: str | None = None,
        on_refresh_token: Callable[[str], None] = lambda _: None,
    ) -> None:
        if urlsplit(server).scheme not in ("http", "https"):
            raise ValueError(f"{server!r} is no server address; an example: http://127.0.0.1:8000")
        self._server = server.rstrip("/")
        self._email = email
        self._password = password
        self._refresh_token = refresh_token
        self._on_refresh_token = on_refresh_token
        self._access_token: str | None = None
        self.user_id = ""

    def sign_in_or_register(self, name: str) -> None:
        """Sign in; where there is no such account yet, make one. Raises SyncError."""
        try:
            self.sign_in()
        except Refused as refused:
            if refused.code != "wrong_credentials":
                raise
            body = {"email": self._email, "name": name, "password": self._password}
            self._take(self._request("POST", "/api/v1/auth/register", body))

    def sign_in(self) -> None:
        """Sign in by refresh token or, failing that, by password. Raises SyncError."""
        if self._refresh_token is not None:
            token, self._refresh_token = self._refresh_token, None
            try:
                self._take(self._request("POST", "/api/v1/auth/refresh", {"refresh_token": token}))
                return
            except Refused:
                if self._password is None:
                    raise
            except Unreachable:
                self._refresh_token = token
                raise
        if self._password is None:
            raise Refused(401, "unauthenticated", "a password is needed")
        body = {"email": self._email, "password": self._password}
        self._take(self._request("POST", "/api/v1/auth/login", body))

    def create_course(self, title: str) -> str:
        """Create a course and return its id. Raises SyncError."""
        return str(self._authorised("POST", "/api/v1/courses", {"title": title})["id"])

    def connect(self, course: str) -> Door:
        """Ask for leave to open a course's socket. Raises SyncError."""
        answer = self._authorised("POST", f"/api/v1/courses/{course}/connect", {})
        lifetime = float(answer["expires_in"])
        expires_at = time.time() + lifetime
        return Door(answer["url"], course, answer["token"], answer["role"], answer["lineage"], expires_at, lifetime)

    def _take(self, answer: dict[str, Any]) -> None:
        self._access_token = answer["access_token"]
        self._refresh_token = answer["refresh_token"]
        self.user_id = answer["user"]["id"]
        self._on_refresh_token(answer["refresh_token"])

    def _authorised(self, method: str, path: str, body: object) -> dict[str, Any]:
        if self._access_token is None:
            self.sign_in()
        try:
            return self._request(method, path, body, self._access_token)
        except Refused as refused:
            if not refused.needs_sign_in:
                raise
        self.sign_in()
        return self._request(method, path, body, self._access_token)

    def _request(self, method: str, path: str, body: object, token: str | None = None) -> dict[str, Any]:
        request = urllib.request.Request(self._server + path, json.dumps(body).encode(), method=method)
        request.add_header("Content-Type", "application/json")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=REST_SECONDS) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                raise refusal(error.code, error.read()) from None
        except (OSError, ValueError) as error:
            raise Unreachable(str(error)) from error


def refusal(status: int, body: bytes) -> Refused:
    """What an HTTP refusal says; anything between us and the server may have written it."""
    try:
        problem = json.loads(body)
        return Refused(status, str(problem["code"]), str(problem.get("detail") or problem["title"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refused(status, "unknown", "the answer holds no problem document")
