"""The REST routes over a real SQLite file, with a clock moved by hand and cheap password hashing."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from auth.documents import DocumentAccess
from auth.passwords import Passwords
from auth.sign_in import SignIn, SignInRules
from auth.tokens import Tokens
from constructure_sync.rest.context import Readiness, RestServices
from constructure_sync.rest.middleware import HttpMiddleware
from constructure_sync.rest.problems import http_exception
from constructure_sync.rest.routes import routes
from schemas.course import CourseSeed
from schemas.ids import CourseId, SessionId
from storage.open import Database, open_database

API = "/api/v1"


@dataclass(slots=True)
class World:
    """The server under test, seen from outside through `client` and from inside through the rest."""

    database: Database
    tokens: Tokens
    access: DocumentAccess
    client: httpx2.AsyncClient
    now: float = 1_800_000_000.0
    seeds: list[CourseSeed] = field(default_factory=list)
    reasons: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    fault: Exception | None = None

    def clock(self) -> float:
        return self.now

    async def readiness(self) -> Readiness:
        return Readiness(self.reasons, self.degraded)

    async def seed(self, seed: CourseSeed) -> bytes:
        if self.fault is not None:
            raise self.fault
        self.seeds.append(seed)
        return b"\x00\x00"

    async def call(self, method: str, path: str, body: object = None, token: str | None = None) -> httpx2.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.client.request(method, path, json=body, headers=headers)

    async def register(self, name: str, password: str = "correct horse") -> dict[str, Any]:
        body = {"email": f"{name}@example.org", "name": name, "password": password}
        response = await self.call("POST", f"{API}/auth/register", body)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    async def course(self, token: str, title: str = "Graphs") -> str:
        response = await self.call("POST", f"{API}/courses", {"title": title}, token)
        assert response.status_code == 201, response.text
        course_id: str = response.json()["id"]
        return course_id


async def nobody_is_connected(of: CourseId | SessionId) -> None:
    """No socket is open whose rights could change."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    database = await open_database(f"sqlite:///{tmp_path / 'constructure.db'}")
    passwords = Passwords(hasher=Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1))
    made: World

    def clock() -> float:
        return made.now

    tokens = Tokens(b"s" * 32, clock=clock)
    services = RestServices(
        sign_in=SignIn(database.accounts, passwords, tokens, SignInRules(), clock=clock),
        courses=database.courses,
        tokens=tokens,
        seed=lambda seed: made.seed(seed),
        ready=lambda: made.readiness(),
        metrics=lambda: b"# metrics\n",
        public_url=lambda: "https://courses.example.org",
        rights_changed=nobody_is_connected,
        clock=clock,
        body_seconds=0.2,
    )
    app = HttpMiddleware(
        Starlette(routes=list(routes(services)), exception_handlers={HTTPException: http_exception}), secure=True
    )
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        made = World(database, tokens, DocumentAccess(tokens, database.courses), client)
        yield made
    passwords.close()
    await database.close()
