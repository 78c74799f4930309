"""Tokens: what is taken, and how many ways a forged one fails."""

import base64
import hmac
import json
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from joserfc import jwe, jwt
from joserfc.jwk import OctKey, OKPKey, RSAKey

from auth.tokens import AccessClaims, ConnectClaims, InvalidToken, Tokens
from schemas.ids import CourseId, SessionId, UserId
from schemas.roles import Role

SECRET = b"0123456789abcdef0123456789abcdef"
USER, SESSION, COURSE, LINEAGE = UserId(uuid4()), SessionId(uuid4()), CourseId(uuid4()), uuid4()
NOW = 1_800_000_000
KEY = OKPKey.import_key(
    Ed25519PrivateKey.from_private_bytes(hmac.digest(SECRET, b"constructure-sync token signing key 1", "sha256"))
)
HEADER = {"alg": "Ed25519", "typ": "at+jwt"}
CLAIMS = {
    "iss": "constructure-sync",
    "aud": "constructure-sync/api",
    "sub": str(USER),
    "sid": str(SESSION),
    "jti": "1",
    "iat": NOW,
    "exp": NOW + 60,
}


def tokens(now: float = NOW, secret: bytes = SECRET) -> Tokens:
    return Tokens(secret, clock=lambda: now)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(header: dict[str, object], claims: dict[str, object]) -> str:
    """A token with our own key's signature over any header and claims."""
    content = f"{part(header)}.{part(claims)}"
    signature = Ed25519PrivateKey.from_private_bytes(
        hmac.digest(SECRET, b"constructure-sync token signing key 1", "sha256")
    ).sign(content.encode())
    return f"{content}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_an_access_token_says_who_and_until_when() -> None:
    assert tokens().read_access(tokens().access(USER, SESSION)) == AccessClaims(USER, SESSION, NOW + 900)


def test_a_connect_token_says_where_and_as_what() -> None:
    token = tokens().connect(USER, SESSION, COURSE, Role.EDITOR, LINEAGE)
    assert tokens().read(token) == ConnectClaims(USER, SESSION, NOW + 3600, COURSE, Role.EDITOR, LINEAGE)
    with pytest.raises(InvalidToken, match="another kind"):
        tokens().read_access(token)


def test_either_kind_may_open_a_socket() -> None:
    assert isinstance(tokens().read(tokens().access(USER, SESSION)), AccessClaims)


@pytest.mark.parametrize(("later", "good"), [(899, True), (900, False), (10_000, False)])
def test_a_token_ends_at_its_second(later: int, good: bool) -> None:
    token = tokens().access(USER, SESSION)
    if good:
        assert tokens(NOW + later).read_access(token).expires_at == NOW + 900
    else:
        with pytest.raises(InvalidToken):
            tokens(NOW + later).read_access(token)


def test_two_tokens_never_are_the_same() -> None:
    assert tokens().access(USER, SESSION) != tokens().access(USER, SESSION)


def test_tokens_survive_a_restart_and_end_with_the_secret() -> None:
    token = tokens().access(USER, SESSION)
    assert tokens(secret=SECRET).read_access(token).user_id == USER
    with pytest.raises(InvalidToken):
        tokens(secret=SECRET + b"!").read_access(token)


def test_the_hand_made_token_of_these_tests_is_taken() -> None:
    assert tokens().read_access(signed({**HEADER}, {**CLAIMS})).user_id == USER


PUBLIC = KEY.as_dict(private=False)
FORGED_HEADERS: dict[str, dict[str, object]] = {
    "alg none": {"alg": "none", "typ": "at+jwt"},
    "alg None": {"alg": "None", "typ": "at+jwt"},
    "alg EdDSA": {"alg": "EdDSA", "typ": "at+jwt"},
    "alg HS256": {"alg": "HS256", "typ": "at+jwt"},
    "no alg": {"typ": "at+jwt"},
    "alg list": {"alg": ["Ed25519"], "typ": "at+jwt"},
    "no typ": {"alg": "Ed25519"},
    "typ JWT": {"alg": "Ed25519", "typ": "JWT"},
    "typ of the other kind": {"alg": "Ed25519", "typ": "connect+jwt"},
    "typ in capitals": {"alg": "Ed25519", "typ": "AT+JWT"},
    "jwk": {**HEADER, "jwk": PUBLIC},
    "jku": {**HEADER, "jku": "https://evil.example/keys"},
    "kid": {**HEADER, "kid": "../../etc/passwd"},
    "x5u": {**HEADER, "x5u": "https://evil.example/key"},
    "crit": {**HEADER, "crit": ["exp"], "exp": 1},
    "b64 false": {**HEADER, "b64": False, "crit": ["b64"]},
    "cty": {**HEADER, "cty": "JWT"},
    "zip": {**HEADER, "zip": "DEF"},
}


@pytest.mark.parametrize("name", FORGED_HEADERS)
def test_a_header_that_is_not_exactly_ours_is_refused_even_well_signed(name: str) -> None:
    with pytest.raises(InvalidToken):
        tokens().read_access(signed(FORGED_HEADERS[name], {**CLAIMS}))


FORGED_CLAIMS: dict[str, dict[str, object]] = {
    "other issuer": {"iss": "somebody"},
    "other audience": {"aud": "constructure-sync/connect"},
    "audience list with a stranger": {"aud": ["other"]},
    "expired": {"exp": NOW},
    "exp text": {"exp": str(NOW + 60)},
    "exp huge float": {"exp": 1e300},
    "exp null": {"exp": None},
    "future nbf": {"nbf": NOW + 60},
    "future iat": {"iat": NOW + 3600},
    "sub no id": {"sub": "admin"},
    "sid no id": {"sid": "x"},
    "sub number": {"sub": 5},
}


@pytest.mark.parametrize("name", FORGED_CLAIMS)
def test_claims_that_are_not_ours_are_refused_even_well_signed(name: str) -> None:
    with pytest.raises(InvalidToken):
        tokens().read_access(signed({**HEADER}, {**CLAIMS, **FORGED_CLAIMS[name]}))


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "sid", "iat", "exp"])
def test_a_missing_claim_is_refused(name: str) -> None:
    claims: dict[str, object] = {key: value for key, value in CLAIMS.items() if key != name}
    with pytest.raises(InvalidToken):
        tokens().read_access(signed({**HEADER}, claims))


def test_other_keys_and_the_public_key_as_secret_are_refused() -> None:
    stranger = OKPKey.import_key(Ed25519PrivateKey.generate())
    public = OctKey.import_key(json.dumps(PUBLIC).encode())
    rsa = RSAKey.import_key(generate_private_key(65537, 2048))
    for algorithm, key in (("Ed25519", stranger), ("HS256", public), ("RS256", rsa)):
        forged = jwt.encode({"alg": algorithm, "typ": "at+jwt"}, CLAIMS, key, algorithms=[algorithm])
        with pytest.raises(InvalidToken):
            tokens().read_access(forged)


def test_an_encrypted_token_is_refused() -> None:
    key = OctKey.generate_key(256)
    forged = jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM"}, json.dumps(CLAIMS), key)
    with pytest.raises(InvalidToken):
        tokens().read_access(forged)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", "a.b.c", "é.é.é", "\x00", "\ud800", part("x") + ".." , part([[]] * 3) + ".e30.", "=" * 50,
     base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.AA", "x" * 8193, "x" * 1_000_000],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        tokens().read(text)


def test_a_changed_byte_anywhere_is_refused() -> None:
    token = tokens().access(USER, SESSION)
    # The last character carries bits that are not part of the signature.
    for place in range(len(token) - 1):
        other = "A" if token[place] != "A" else "B"
        with pytest.raises(InvalidToken):
            tokens().read(token[:place] + other + token[place + 1 :])


def test_a_refusal_holds_no_part_of_the_token() -> None:
    token = signed({**HEADER, "kid": "secretkid"}, {**CLAIMS})
    with pytest.raises(InvalidToken) as raised:
        tokens().read_access(token)
    assert "secretkid" not in str(raised.value)
    assert token[:20] not in str(raised.value)


def test_a_connect_token_names_a_known_role_and_real_ids() -> None:
    base = {
        **CLAIMS,
        "aud": "constructure-sync/connect",
        "course": str(COURSE),
        "lineage": str(LINEAGE),
        "role": "editor",
    }
    header: dict[str, object] = {"alg": "Ed25519", "typ": "connect+jwt"}
    assert isinstance(tokens().read(signed(header, base)), ConnectClaims)
    for change in ({"role": "god"}, {"course": "x"}, {"lineage": ""}):
        with pytest.raises(InvalidToken):
            tokens().read(signed(header, {**base, **change}))
    assert UUID(str(COURSE)) == COURSE
