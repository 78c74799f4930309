"""What an upgrade request is, from its bytes alone: one spelling per document, exact origins, bounded queries."""

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constructure_sync.transport.admission import (
    MAX_TOKEN_CHARACTERS,
    DocumentPath,
    Refusal,
    Refused,
    UpgradeRequest,
    client_address,
    document_path,
    origin_allowed,
    parse_handshake,
    parse_query,
    read_request,
    refusal_response,
)
from tests.unit.transport.harness import KEY, ORIGIN, upgrade_request

COURSE = "0190f5a2-7c3b-7000-8000-0123456789ab"
NODE = "aB3dE6gH9jK2"
SYNC = f"/sync/{COURSE}"

DOCUMENTS = {
    SYNC: DocumentPath(COURSE, None, False),
    f"{SYNC}/body/{NODE}": DocumentPath(COURSE, NODE, False),
    f"{SYNC}/review": DocumentPath(COURSE, None, True),
}

NOT_DOCUMENTS = [
    "",
    "/",
    "//",
    "/sync",
    "/sync/",
    "sync/" + COURSE,
    "/sync//" + COURSE,
    "//sync/" + COURSE,
    "/./sync/" + COURSE,
    "/x/../sync/" + COURSE,
    f"/sync/../sync/{COURSE}",
    f"/sync/./{COURSE}",
    f"/sync/%2e%2e/sync/{COURSE}",
    f"/sync/..%2f{COURSE}",
    f"/sync%2f{COURSE}",
    f"/sync%2F{COURSE}",
    f"/sync\\{COURSE}",
    f"/sync/{COURSE}\\review",
    f"/%73ync/{COURSE}",
    f"/SYNC/{COURSE}",
    f"/Sync/{COURSE}",
    f"/sync/{COURSE.upper()}",
    f"/sync/{COURSE.replace('-', '')}",
    f"/sync/{{{COURSE}}}",
    f"/sync/urn:uuid:{COURSE}",
    f"/sync/{COURSE[:-1]}",
    f"/sync/{COURSE}0",
    f"/sync/{COURSE[:-1]}g",
    f"/sync/{COURSE.replace('-', '%2d')}",
    f"/sync/%30{COURSE[1:]}",
    f"/sync/ {COURSE}",
    f"/sync/{COURSE} ",
    f"/sync/{COURSE}%20",
    f"/sync/{COURSE}+",
    f"/sync/{COURSE}\n",
    f"/sync/{COURSE}\r",
    f"/sync/{COURSE}%0a",
    f"/sync/{COURSE}\x00",
    f"/sync/{COURSE}%00",
    f"/sync/{COURSE}%00/review",
    f"/sync/{COURSE}\u2028",
    f"/sync/{COURSE}\u200b",
    f"/sync/\uff10{COURSE[1:]}",
    f"/sync/{COURSE.replace('0', chr(0x0660))}",
    f"/sync/{COURSE.replace('-', chr(0x2010))}",
    f"/sync/{COURSE.replace('a', chr(0x0430))}",
    f"/sync/{COURSE}/",
    f"/sync/{COURSE}//",
    f"/sync/{COURSE};a=b",
    f"/sync/{COURSE}#review",
    f"/sync/{COURSE}/.",
    f"/sync/{COURSE}/..",
    f"/sync/{COURSE}/review/",
    f"/sync/{COURSE}/review/..",
    f"/sync/{COURSE}/Review",
    f"/sync/{COURSE}/REVIEW",
    f"/sync/{COURSE}/revie%77",
    f"/sync/{COURSE}/review/{NODE}",
    f"/sync/{COURSE}/body",
    f"/sync/{COURSE}/body/",
    f"/sync/{COURSE}/body//{NODE}",
    f"/sync/{COURSE}/body/../body/{NODE}",
    f"/sync/{COURSE}/body/{NODE}/",
    f"/sync/{COURSE}/body/{NODE}x",
    f"/sync/{COURSE}/body/{NODE[:-1]}",
    f"/sync/{COURSE}/body/{NODE[:-1]}-",
    f"/sync/{COURSE}/body/{NODE[:-1]}_",
    f"/sync/{COURSE}/body/{NODE[:-1]}%41",
    f"/sync/{COURSE}/body/{NODE[:-1]}\x00",
    f"/sync/{COURSE}/body/{NODE[:-1]}\u00e9",
    f"/sync/{COURSE}/body/{NODE}/review",
    f"/sync/{COURSE}/Body/{NODE}",
    f"/sync/{COURSE}/content/{NODE}",
    f"/sync/{COURSE}/{COURSE}",
    f"http://courses.example/sync/{COURSE}",
    f"/sync/{COURSE}?x=1",
    f"/api/sync/{COURSE}",
]


def test_the_table_of_paths_is_long_enough() -> None:
    assert len(set(NOT_DOCUMENTS)) == len(NOT_DOCUMENTS) >= 60


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_document_has_one_spelling(path: str) -> None:
    assert document_path(path) == DOCUMENTS[path]


@pytest.mark.parametrize("path", NOT_DOCUMENTS)
def test_every_other_spelling_names_nothing(path: str) -> None:
    assert document_path(path) is None


@given(st.text(max_size=80))
def test_what_is_read_is_what_was_written(path: str) -> None:
    document = document_path(path)
    if document is not None:
        assert path.startswith(f"/sync/{document.course}")


def request(origin: str | None, *, path: str = SYNC, token: str | None = "t") -> UpgradeRequest:
    return UpgradeRequest(path, {}, origin, (), "127.0.0.1", token)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (ORIGIN, True),
        ("http://127.0.0.1:8000", True),
        (None, True),
        ("null", False),
        ("", False),
        ("https://courses.example.evil.example", False),
        ("https://evil.example/courses.example", False),
        ("https://evilcourses.example", False),
        ("https://sub.courses.example", False),
        ("http://courses.example", False),
        ("https://courses.example:443", False),
        ("https://courses.example:8443", False),
        ("https://courses.example/", False),
        ("https://courses.example.", False),
        ("https://COURSES.example", False),
        ("https://courses.example@evil.example", False),
        ("https://courses.example, https://evil.example", False),
        ("https://courses.exampl\u0435", False),
        ("file://", False),
        ("*", False),
    ],
)
def test_only_exact_origins_may_connect(origin: str | None, allowed: bool) -> None:
    assert origin_allowed(request(origin), [ORIGIN, "http://127.0.0.1:8000", "null"]) is allowed


def test_without_origin_a_token_must_come_with_the_request_or_in_a_message() -> None:
    assert not origin_allowed(request(None, token=None), [ORIGIN])
    assert origin_allowed(request(None, path="/hocuspocus", token=None), [ORIGIN])
    assert not origin_allowed(request("https://evil.example", path="/hocuspocus", token=None), [ORIGIN])


def test_a_handshake_is_read() -> None:
    handshake = parse_handshake(
        upgrade_request("/a?b=c", "Sec-WebSocket-Protocol: one, two", "X-Forwarded-For: 10.0.0.1")
    )
    assert (handshake.path, handshake.query, handshake.key) == ("/a", "b=c", KEY)
    assert (handshake.origin, handshake.subprotocols, handshake.forwarded) == (ORIGIN, ("one", "two"), "10.0.0.1")


def replaced(old: str, new: str) -> bytes:
    return upgrade_request().replace(old.encode(), new.encode())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (replaced("GET", "POST"), 400),
        (replaced("HTTP/1.1", "HTTP/1.0"), 400),
        (replaced("GET ", "GET  "), 400),
        (upgrade_request("/" + "a" * 20_000), 400),
        (upgrade_request(drop="Upgrade"), 400),
        (upgrade_request(drop="Connection"), 400),
        (replaced("keep-alive, Upgrade", "keep-alive"), 400),
        (replaced("Upgrade: websocket", "Upgrade: h2c"), 400),
        (upgrade_request(drop="Sec-WebSocket-Version"), 426),
        (replaced("Version: 13", "Version: 8"), 426),
        (upgrade_request(drop="Sec-WebSocket-Key"), 400),
        (replaced(KEY, "c2hvcnQ="), 400),
        (replaced(KEY, "!" * 24), 400),
        (replaced(KEY, KEY[:-2]), 400),
        (upgrade_request(SYNC, f"Sec-WebSocket-Key: {KEY}"), 400),
        (upgrade_request(SYNC, f"Origin: {ORIGIN}"), 400),
        (upgrade_request(SYNC, "Host: other.example"), 400),
        (upgrade_request(SYNC, "no colon"), 400),
        (upgrade_request(SYNC, "Host : a"), 400),
        (upgrade_request(SYNC, ": empty"), 400),
    ],
)
def test_a_request_that_is_no_upgrade_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_handshake(data)
    assert refusal.value.refused.status == status


@given(st.binary(max_size=200))
def test_reading_a_handshake_is_total(data: bytes) -> None:
    with pytest.raises(Refusal):
        parse_handshake(data + b"\r\n\r\n")


def test_a_query_is_decoded() -> None:
    assert parse_query("token=a.b-c&ack=seq&lineage=&name=%C3%A9") == {
        "token": "a.b-c",
        "ack": "seq",
        "lineage": "",
        "name": "\u00e9",
    }
    assert parse_query("") == {}


@pytest.mark.parametrize(
    "query",
    [
        "a=1&a=2",
        "&".join(f"n{n}=1" for n in range(17)),
        "a=" + "x" * (MAX_TOKEN_CHARACTERS + 1),
        "a=%00",
        "a=%0d%0aSet-Cookie:x",
        "a=%1b[31m",
        "a=%e2%80%ae",
        "a=%ff",
        "%ff=a",
        "=a",
        "a b=c",
        "n" * 65 + "=1",
    ],
)
def test_a_query_outside_its_bounds_is_refused(query: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_query(query)
    assert refusal.value.refused.status == 400


@pytest.mark.parametrize(
    ("path", "headers", "token", "in_query"),
    [
        (SYNC, [], None, False),
        (SYNC + "?token=", [], None, True),
        (SYNC + "?token=q", [], "q", True),
        (SYNC + "?token=q", ["Authorization: Bearer h"], "h", False),
        (SYNC, ["Authorization: bearer h"], "h", False),
        (SYNC, ["Authorization: Basic h"], None, False),
        (SYNC + "?token=q", ["Sec-WebSocket-Protocol: x, constructure.token.p"], "p", False),
        (SYNC, ["Sec-WebSocket-Protocol: constructure.token.p", "Authorization: Bearer h"], "p", False),
    ],
)
def test_the_token_is_found(path: str, headers: list[str], token: str | None, in_query: bool) -> None:
    found = read_request(parse_handshake(upgrade_request(path, *headers)), "::1")
    assert (found.token, found.token_in_query) == (token, in_query)
    assert "token" not in found.query


def test_a_token_that_is_too_long_is_refused() -> None:
    header = "Authorization: Bearer " + "t" * (MAX_TOKEN_CHARACTERS + 1)
    with pytest.raises(Refusal):
        read_request(parse_handshake(upgrade_request(SYNC, header)), "::1")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.66, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", " , ,", "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_address_is_the_last_that_no_trusted_proxy_has(peer: str, forwarded: str, address: str) -> None:
    assert client_address(peer, forwarded, [ipaddress.ip_network("10.0.0.0/8")]) == address


def test_a_refusal_is_a_whole_response_with_a_problem() -> None:
    head, body = refusal_response(Refused(429, "too_many_connections", "Too many.")).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nContent-Type: application/problem+json" in head
    assert b"\r\nConnection: close" in head
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    problem = json.loads(body)
    assert problem == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "code": "too_many_connections",
        "detail": "Too many.",
    }
