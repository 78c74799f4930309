"""Courses, members and connect tokens."""

from uuid import UUID, uuid4

import pytest

from auth.documents import Denied, Grant
from schemas.ids import CourseId, DocumentId
from schemas.roles import Role
from tests.unit.rest.conftest import API, World


async def test_a_new_course_has_an_owner_and_a_document_with_its_first_update(world: World) -> None:
    anna = await world.register("anna")
    response = await world.call("POST", f"{API}/courses", {"title": "  Graphs  "}, anna["access_token"])
    assert response.status_code == 201
    body = response.json()
    assert body["title"] == "Graphs"
    assert (body["role"], body["visibility"]) == ("owner", "private")
    assert body["created_at"] == "2027-01-15T08:00:00.000+00:00"
    assert response.headers["Location"] == f"{API}/courses/{body['id']}"
    read = await world.call("GET", f"{API}/courses/{body['id']}", token=anna["access_token"])
    assert read.json() == body
    [seed] = world.seeds
    assert (str(seed.course_id), seed.title, str(seed.owner)) == (body["id"], "Graphs", anna["user"]["id"])
    grant = await world.access.authorise_document(anna["access_token"], body["id"])
    assert isinstance(grant, Grant)
    stored = await world.database.log.load(DocumentId(grant.document_id))
    assert stored is not None
    assert (stored.head.seq, [each.payload for each in stored.updates]) == (1, [b"\x00\x00"])
    assert grant.lineage == seed.lineage


async def test_the_list_has_pages_newest_first_and_only_ones_own(world: World) -> None:
    anna, ben = await world.register("anna"), await world.register("ben")
    made = [await world.course(anna["access_token"], f"Course {n}") for n in range(5)]
    await world.course(ben["access_token"])
    seen: list[str] = []
    cursor = ""
    for expected in (2, 2, 1):
        page = (await world.call("GET", f"{API}/courses?limit=2{cursor}", token=anna["access_token"])).json()
        assert len(page["items"]) == expected
        seen += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None
    assert seen == list(reversed(made))


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=", "limit=1e1", "cursor=x", "cursor="])
async def test_a_bad_query_is_named(world: World, query: str) -> None:
    anna = await world.register("anna")
    response = await world.call("GET", f"{API}/courses?{query}", token=anna["access_token"])
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "?" + query.partition("=")[0]


@pytest.mark.parametrize(
    ("role", "read", "connect", "change"),
    [
        (None, 403, 403, 403),
        ("viewer", 200, 200, 403),
        ("commenter", 200, 200, 403),
        ("editor", 200, 200, 403),
        ("owner", 200, 200, 200),
    ],
)
async def test_each_role_may_do_what_the_table_says(
    world: World, role: str | None, read: int, connect: int, change: int
) -> None:
    anna, ben = await world.register("anna"), await world.register("ben")
    course = f"{API}/courses/{await world.course(anna['access_token'])}"
    member = f"{course}/members/{ben['user']['id']}"
    if role is not None:
        given = await world.call("PUT", member, {"role": role}, anna["access_token"])
        assert given.json() == {"user": {"id": ben["user"]["id"], "name": "ben"}, "role": role}
    token = ben["access_token"]
    assert (await world.call("GET", course, token=token)).status_code == read
    assert (await world.call("POST", f"{course}/connect", token=token)).status_code == connect
    assert (await world.call("PUT", member, {"role": "owner"}, token)).status_code == change


async def test_a_course_keeps_its_last_owner(world: World) -> None:
    anna, ben = await world.register("anna"), await world.register("ben")
    course = f"{API}/courses/{await world.course(anna['access_token'])}"
    myself = f"{course}/members/{anna['user']['id']}"
    refused = await world.call("PUT", myself, {"role": "editor"}, anna["access_token"])
    assert (refused.status_code, refused.json()["code"]) == (409, "last_owner")
    await world.call("PUT", f"{course}/members/{ben['user']['id']}", {"role": "owner"}, anna["access_token"])
    assert (await world.call("PUT", myself, {"role": "editor"}, anna["access_token"])).status_code == 200
    assert (await world.call("GET", course, token=anna["access_token"])).json()["role"] == "editor"


async def test_unknown_things_are_not_found(world: World) -> None:
    anna = await world.register("anna")
    token = anna["access_token"]
    course = await world.course(token)
    unknown = uuid4()
    for method, path, body in [
        ("GET", f"/courses/{unknown}", None),
        ("GET", f"/courses/{course.upper()}", None),
        ("GET", f"/courses/{course.replace('-', '')}", None),
        ("GET", f"/courses/{course}%00", None),
        ("GET", f"/courses/%2e%2e/{course}", None),
        ("POST", f"/courses/{unknown}/connect", None),
        ("PUT", f"/courses/{course}/members/{unknown}", {"role": "viewer"}),
        ("PUT", f"/courses/{course}/members/me", {"role": "viewer"}),
    ]:
        response = await world.call(method, API + path, body, token)
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), path


async def test_connect_gives_what_a_provider_needs(world: World) -> None:
    anna = await world.register("anna")
    course = await world.course(anna["access_token"])
    body = (await world.call("POST", f"{API}/courses/{course}/connect", token=anna["access_token"])).json()
    token = body.pop("token")
    lineage = body.pop("lineage")
    assert body == {"url": "wss://courses.example.org/sync", "role": "owner", "schema": 1, "expires_in": 3600}
    grant = await world.access.authorise_document(token, course)
    assert isinstance(grant, Grant)
    assert (grant.user_name, grant.role, grant.lineage) == ("anna", Role.OWNER, UUID(lineage))
    assert grant.expires_at == world.now + 3600


async def test_a_connect_token_opens_no_rest_route(world: World) -> None:
    anna = await world.register("anna")
    course = await world.course(anna["access_token"])
    body = (await world.call("POST", f"{API}/courses/{course}/connect", token=anna["access_token"])).json()
    assert (await world.call("GET", f"{API}/me", token=body["token"])).status_code == 401


async def test_admission_follows_the_database_not_the_token(world: World) -> None:
    anna, ben = await world.register("anna"), await world.register("ben")
    course = await world.course(anna["access_token"])
    member = f"{API}/courses/{course}/members/{ben['user']['id']}"
    await world.call("PUT", member, {"role": "editor"}, anna["access_token"])
    connect = await world.call("POST", f"{API}/courses/{course}/connect", token=ben["access_token"])
    before = await world.access.authorise_document(connect.json()["token"], course)
    assert isinstance(before, Grant)
    assert before.role is Role.EDITOR
    await world.call("PUT", member, {"role": "viewer"}, anna["access_token"])
    after = await world.access.authorise_document(connect.json()["token"], course)
    assert isinstance(after, Grant)
    assert after.role is Role.VIEWER
    rechecked = await world.access.recheck(before)
    assert isinstance(rechecked, Grant)
    assert rechecked.role is Role.VIEWER
    await world.call("POST", f"{API}/auth/logout", token=ben["access_token"])
    for outcome in (
        await world.access.authorise_document(connect.json()["token"], course),
        await world.access.recheck(before),
    ):
        assert isinstance(outcome, Denied)
        assert (outcome.status, outcome.code) == (401, "unauthenticated")


async def test_admission_refuses_each_with_its_status(world: World) -> None:
    anna, ben = await world.register("anna"), await world.register("ben")
    course, other = await world.course(anna["access_token"]), await world.course(anna["access_token"])
    token = (await world.call("POST", f"{API}/courses/{course}/connect", token=anna["access_token"])).json()["token"]
    claims = world.tokens.read(token)
    foreign = world.tokens.connect(
        claims.user_id, claims.session_id, CourseId(UUID(course)), Role.OWNER, lineage=uuid4()
    )
    cases = [
        ("nonsense", course, 401),
        (token, other, 403),
        (ben["access_token"], course, 403),
        (anna["access_token"], str(uuid4()), 404),
        (anna["access_token"], course.upper(), 404),
        (anna["access_token"], f"{course}/", 404),
        (anna["access_token"], f"{course}\n", 404),
        (anna["access_token"], f"../{course}", 404),
        (anna["access_token"], f"{course}%00", 404),
        (anna["access_token"], f"{course}/review", 404),
        (anna["access_token"], f"{course}/body/0123456789aB", 404),
        (foreign, course, 409),
    ]
    for shown, name, status in cases:
        outcome = await world.access.authorise_document(shown, name)
        assert isinstance(outcome, Denied), name
        assert outcome.status == status, name
    world.now += 3600
    late = await world.access.authorise_document(token, course)
    assert isinstance(late, Denied)
    assert late.status == 401


async def test_admission_says_503_when_the_database_is_away(world: World) -> None:
    anna = await world.register("anna")
    course = await world.course(anna["access_token"])
    await world.database.close()
    outcome = await world.access.authorise_document(anna["access_token"], course)
    assert isinstance(outcome, Denied)
    assert (outcome.status, outcome.code) == (503, "unavailable")
    for name in (f"{course}/../x", f"{course}/body/short", f"{course}\n"):
        unasked = await world.access.authorise_document(anna["access_token"], name)
        assert isinstance(unasked, Denied)
        assert unasked.status == 404, "a name that no document can have is not looked up"
