"""Registration, sign-in, renewal and sign-out."""

import asyncio

import pytest

from tests.unit.rest.conftest import API, World

ANNA = {"email": "anna@example.org", "password": "correct horse"}


async def test_register_signs_in(world: World) -> None:
    made = await world.register("anna")
    assert made["user"]["email"] == "anna@example.org"
    assert made["user"]["role"] == "teacher"
    assert made["expires_in"] == 900
    me = await world.call("GET", f"{API}/me", token=made["access_token"])
    assert me.status_code == 200
    assert me.json() == made["user"]


async def test_an_address_has_one_account_whatever_its_case(world: World) -> None:
    await world.register("anna")
    again = await world.call("POST", f"{API}/auth/register", {**ANNA, "email": "ANNA@Example.org", "name": "A"})
    assert again.status_code == 409
    assert again.json()["code"] == "email_taken"
    login = await world.call("POST", f"{API}/auth/login", {**ANNA, "email": "Anna@example.ORG"})
    assert login.status_code == 200


async def test_a_wrong_password_and_an_unknown_address_look_alike(world: World) -> None:
    await world.register("anna")
    wrong = await world.call("POST", f"{API}/auth/login", {**ANNA, "password": "wrong"})
    unknown = await world.call("POST", f"{API}/auth/login", {**ANNA, "email": "nobody@example.org"})
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())
    assert wrong.json()["code"] == "wrong_credentials"


async def test_failures_are_throttled_by_account_and_only_there(world: World) -> None:
    await world.register("anna")
    await world.register("ben")
    tries = [world.call("POST", f"{API}/auth/login", {**ANNA, "password": f"wrong {n}"}) for n in range(40)]
    answers = [response.status_code for response in await asyncio.gather(*tries)]
    assert answers.count(401) == 5
    assert answers.count(429) == 35
    right = await world.call("POST", f"{API}/auth/login", ANNA)
    assert right.status_code == 429
    assert 1 <= int(right.headers["Retry-After"]) <= 60
    assert right.json()["code"] == "too_many_attempts"
    other = await world.call("POST", f"{API}/auth/login", {**ANNA, "email": "ben@example.org"})
    assert other.status_code == 200


async def test_right_passwords_are_not_throttled(world: World) -> None:
    await world.register("anna")
    for _ in range(12):
        assert (await world.call("POST", f"{API}/auth/login", ANNA)).status_code == 200


async def test_refresh_rotates_and_reuse_ends_the_whole_family(world: World) -> None:
    first = await world.register("anna")
    second = await world.call("POST", f"{API}/auth/refresh", {"refresh_token": first["refresh_token"]})
    assert second.status_code == 200
    assert second.json()["refresh_token"] != first["refresh_token"]
    assert (await world.call("GET", f"{API}/me", token=second.json()["access_token"])).status_code == 200
    world.now += 11
    stolen = await world.call("POST", f"{API}/auth/refresh", {"refresh_token": first["refresh_token"]})
    assert stolen.status_code == 401
    for token in (second.json()["refresh_token"], first["refresh_token"]):
        assert (await world.call("POST", f"{API}/auth/refresh", {"refresh_token": token})).status_code == 401
    assert (await world.call("GET", f"{API}/me", token=second.json()["access_token"])).status_code == 401


async def test_two_tabs_may_refresh_at_the_same_moment(world: World) -> None:
    body = {"refresh_token": (await world.register("anna"))["refresh_token"]}
    answers = await asyncio.gather(*(world.call("POST", f"{API}/auth/refresh", body) for _ in range(2)))
    assert [each.status_code for each in answers] == [200, 200]
    for answer in answers:
        renewed = await world.call("POST", f"{API}/auth/refresh", {"refresh_token": answer.json()["refresh_token"]})
        assert renewed.status_code == 200


async def test_a_refresh_token_ends_with_its_time(world: World) -> None:
    made = await world.register("anna")
    world.now += 30 * 86_400
    late = await world.call("POST", f"{API}/auth/refresh", {"refresh_token": made["refresh_token"]})
    assert late.status_code == 401


async def test_logout_ends_every_token_of_the_sign_in_and_no_other(world: World) -> None:
    made = await world.register("anna")
    other = (await world.call("POST", f"{API}/auth/login", ANNA)).json()
    assert (await world.call("POST", f"{API}/auth/logout", token=made["access_token"])).status_code == 204
    assert (await world.call("GET", f"{API}/me", token=made["access_token"])).status_code == 401
    refresh = await world.call("POST", f"{API}/auth/refresh", {"refresh_token": made["refresh_token"]})
    assert refresh.status_code == 401
    assert (await world.call("GET", f"{API}/me", token=other["access_token"])).status_code == 200


async def test_an_access_token_ends_after_fifteen_minutes(world: World) -> None:
    made = await world.register("anna")
    world.now += 899
    assert (await world.call("GET", f"{API}/me", token=made["access_token"])).status_code == 200
    world.now += 1
    late = await world.call("GET", f"{API}/me", token=made["access_token"])
    assert late.status_code == 401
    assert late.headers["WWW-Authenticate"] == "Bearer"


async def test_signing_in_works_with_an_ended_token_in_the_header(world: World) -> None:
    await world.register("anna")
    assert (await world.call("POST", f"{API}/auth/login", ANNA, token="ended")).status_code == 200


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "Bearer x.y.z", "x"])
async def test_other_authorizations_are_refused(world: World, header: str) -> None:
    response = await world.client.get(f"{API}/me", headers={"Authorization": header})
    assert response.status_code == 401
    assert response.json()["code"] == "unauthenticated"
