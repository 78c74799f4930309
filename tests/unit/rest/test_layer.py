"""The layer itself: permissions, bodies, problems, headers, metrics."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from constructure_sync.rest.endpoint import unguarded
from constructure_sync.rest.problems import ERRORS, as_problem
from constructure_sync.rest.routes import OPERATIONS, routes
from schemas.problems import PROBLEMS, ProblemCode
from schemas.roles import PERMISSIONS, Open, Role
from tests.unit.rest.conftest import API, World

REGISTER = f"{API}/auth/register"
GOOD = {"email": "anna@example.org", "name": "Anna", "password": "correct horse"}


def test_every_route_declares_its_permission() -> None:
    made = routes(services=None)  # type: ignore[arg-type]
    assert unguarded(made) == []
    assert {each.permission for each in OPERATIONS} <= set(PERMISSIONS)


def test_a_planted_route_without_a_permission_is_found() -> None:
    async def planted(_: Request) -> Response:
        return Response("secret")

    assert unguarded([*routes(services=None), Route("/planted", planted)]) == ["/planted"]  # type: ignore[arg-type]


def test_only_sign_in_and_operators_routes_are_open() -> None:
    is_open = {each.path for each in OPERATIONS if isinstance(PERMISSIONS[each.permission], Open)}
    sign_in = {f"{API}/auth/{word}" for word in ("register", "login", "refresh")}
    assert is_open == {"/health", "/ready", "/metrics"} | sign_in


def test_a_course_role_is_asked_only_where_a_course_is_named() -> None:
    for each in OPERATIONS:
        assert isinstance(PERMISSIONS[each.permission], Role) == ("{course}" in each.path), each.path


async def test_nobody_passes_a_guarded_route(world: World) -> None:
    anna = await world.register("anna")
    course = await world.course(anna["access_token"])
    for each in OPERATIONS:
        if isinstance(PERMISSIONS[each.permission], Open):
            continue
        path = each.path.format(course=course, user=anna["user"]["id"])
        response = await world.call(each.method, path, {"title": "x", "role": "owner"})
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated"), path


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"email": "no address"}, "/email"),
        ({"email": 5}, "/email"),
        ({"name": "  "}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"password": "short"}, "/password"),
        ({"password": "x" * 1025}, "/password"),
        ({"role": "admin"}, "/role"),
        ({"id": "1"}, "/id"),
    ],
)
async def test_a_bad_field_is_named_and_unknown_ones_are_refused(
    world: World, change: dict[str, object], field: str
) -> None:
    response = await world.call("POST", REGISTER, {**GOOD, **change})
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert (body["code"], body["status"], body["type"]) == ("invalid", 422, "about:blank")
    assert [each["field"] for each in body["errors"]] == [field]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nonsense", b"\xff\xfe", b'{"email": "\xff"}', b'{"email": "\\ud800"}', b"[" * 20_000, b'{"a": NaN}'],
)
async def test_bad_json_is_a_400(world: World, content: bytes) -> None:
    response = await world.client.post(REGISTER, content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) in [(400, "bad_json"), (422, "invalid")]
    assert response.status_code == 400 or content == b'{"a": NaN}'


@pytest.mark.parametrize("content", [b"[]", b"null", b"5", b'"x"'])
async def test_json_that_is_no_object_is_a_422(world: World, content: bytes) -> None:
    response = await world.client.post(REGISTER, content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "")


async def test_only_json_is_read(world: World) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = await world.client.post(REGISTER, content=b"{}", headers={"Content-Type": kind})
        assert (response.status_code, response.json()["code"]) == (415, "not_json")


@pytest.mark.parametrize(("size", "status"), [(64 * 1024, 400), (64 * 1024 + 1, 413)])
async def test_a_body_has_at_most_64_kib(world: World, size: int, status: int) -> None:
    response = await world.client.post(REGISTER, content=b" " * size, headers={"Content-Type": "application/json"})
    assert response.status_code == status


async def test_R13_a_body_that_never_ends_is_given_up(world: World) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    response = await world.client.post(REGISTER, content=slow(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (408, "timed_out")


async def test_an_unknown_method_is_told_the_known_ones(world: World) -> None:
    response = await world.call("DELETE", f"{API}/courses")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "GET, HEAD, POST"


async def test_an_unknown_path_is_a_problem(world: World) -> None:
    response = await world.call("GET", "/nowhere")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_fault_of_ours_says_nothing_of_itself(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    anna = await world.register("anna")

    world.fault = RuntimeError("secret words")
    response = await world.call("POST", f"{API}/courses", {"title": "x"}, anna["access_token"])
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "secret words" not in response.text
    capsys.readouterr()


async def test_a_database_that_is_away_is_a_503(world: World) -> None:
    await world.database.close()
    response = await world.call("POST", f"{API}/auth/login", {"email": "a@example.org", "password": "x"})
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"] == "5"


async def test_operators_routes_answer(world: World) -> None:
    assert (await world.call("GET", "/health")).json()["status"] == "ok"
    assert (await world.call("GET", "/ready")).status_code == 200
    world.reasons = ("the database is away",)
    away = await world.call("GET", "/ready")
    assert away.status_code == 503
    assert away.json() == {"status": "not_ready", "reasons": ["the database is away"], "degraded": []}
    world.reasons, world.degraded = (), ("the bus is away",)
    late = await world.call("GET", "/ready")
    assert late.status_code == 200
    assert late.json() == {"status": "ready", "reasons": [], "degraded": ["the bus is away"]}
    metrics = await world.call("GET", "/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain")
    assert metrics.text == "# metrics\n"


async def test_every_answer_has_the_security_headers(world: World) -> None:
    for method, path in [*((each.method, each.path) for each in OPERATIONS), ("GET", "/nowhere"), ("BREW", "/ready")]:
        headers = (await world.call(method, path)).headers
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'", path
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Strict-Transport-Security"].startswith("max-age=")
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_metrics_have_bounded_labels(world: World) -> None:
    anna = await world.register("anna")
    course = await world.course(anna["access_token"])
    counted = {"method": "GET", "route": f"{API}/courses/{{course}}", "status": "200"}
    unmatched = {"method": "other", "route": "unmatched", "status": "404"}

    def value(labels: dict[str, str]) -> float:
        return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0

    before = value(counted), value(unmatched)
    await world.call("GET", f"{API}/courses/{course}", token=anna["access_token"])
    await world.call("BREW", f"/{course}")
    assert (value(counted), value(unmatched)) == (before[0] + 1, before[1] + 1)


def test_every_code_has_a_problem_and_every_error_a_code() -> None:
    assert set(PROBLEMS) == set(ProblemCode)
    assert set(ERRORS.values()) <= set(ProblemCode)
    assert as_problem(KeyError("x")) is None
