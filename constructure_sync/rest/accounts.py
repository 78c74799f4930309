"""Registration, sign-in and the caller's own account."""

from starlette.responses import Response

from auth.sign_in import SignedIn
from constructure_sync.rest.endpoint import Call, NoBody, json_response
from schemas.rest import Login, Refresh, Registration, SignedInBody, UserBody
from storage.accounts import User


async def register(call: Call[Registration]) -> Response:
    """A new account, signed in: 201."""
    body = call.body
    return _signed_in(await call.services.sign_in.register(body.email, body.name, body.password), 201)


async def login(call: Call[Login]) -> Response:
    """A new sign-in."""
    return _signed_in(await call.services.sign_in.login(call.body.email, call.body.password))


async def refresh(call: Call[Refresh]) -> Response:
    """The sign-in renewed, with the next refresh token."""
    return _signed_in(await call.services.sign_in.refresh(call.body.refresh_token))


async def logout(call: Call[NoBody]) -> Response:
    """End the sign-in of the access token: 204."""
    session_id = call.caller.principal.session_id
    await call.services.sign_in.logout(session_id)
    await call.services.rights_changed(session_id)
    return Response(status_code=204)


async def me(call: Call[NoBody]) -> Response:
    """The caller's account."""
    return json_response(_user(call.caller.user))


def _user(user: User) -> UserBody:
    return UserBody(id=user.id, email=user.email, name=user.name, role=user.platform_role)


def _signed_in(made: SignedIn, status: int = 200) -> Response:
    body = SignedInBody(
        user=_user(made.user),
        access_token=made.access_token,
        refresh_token=made.refresh_token,
        expires_in=made.expires_in,
    )
    return json_response(body, status)
