"""Sessions and forms of the console.

A session is a cookie with the id of a key and the time of its end, signed with the key's stored hash: no table of
sessions is needed, every process of the gateway accepts it, and it ends with the key. Each form carries a token that
the browser also has as a cookie, which no page of another site can read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from dspex.serve.access.access_check import AccessCheck
from dspex.serve.access.principal import Principal
from dspex.serve.api.problem_details import HttpRefusal

__all__ = ["FORM_FIELD", "check_form", "form_token", "give_form_token", "give_session", "of_session", "take_session"]

SESSION_COOKIE = "dspex_session"
FORM_COOKIE = "dspex_form"
#: The field of each form that has the token.
FORM_FIELD = "token"
#: How long a session lasts.
SESSION_SECONDS = 12 * 3600


def give_session(request: Request, response: Response, principal: Principal) -> None:
    """Begin a session of the bearer of a key."""
    assert principal.key_id is not None
    ends = int(time.time()) + SESSION_SECONDS
    value = f"{principal.key_id}.{ends}.{_signature(principal.secret, principal.key_id, ends)}"
    _set_cookie(request, response, SESSION_COOKIE, value, SESSION_SECONDS)


def take_session(request: Request, response: Response) -> None:
    """End a session in this browser."""
    response.delete_cookie(SESSION_COOKIE, path=request.scope.get("root_path", "") or "/")


async def of_session(access: AccessCheck, request: Request) -> Principal | None:
    """Whose session a request belongs to; None without one, or when it or its key has ended."""
    id, _, rest = request.cookies.get(SESSION_COOKIE, "").partition(".")
    ends, _, signature = rest.partition(".")
    if not (ends.isascii() and ends.isdigit() and len(ends) <= 12 and time.time() < int(ends)):
        return None
    try:
        key_id = UUID(id)
    except ValueError:
        return None
    found = await access.by_id(key_id)
    if found is None or not hmac.compare_digest(
        signature.encode(), _signature(found.secret, key_id, int(ends)).encode()
    ):
        return None
    return found


def form_token(request: Request) -> str:
    """The token for the forms of a page: the browser's, or a new one."""
    known = request.cookies.get(FORM_COOKIE, "")
    if len(known) >= 32 and known.isascii() and known.isalnum():
        return known
    token: str = request.scope.setdefault("dspex_form_token", secrets.token_hex(24))
    return token


def give_form_token(request: Request, response: Response) -> None:
    """Have the browser keep the token of the page's forms."""
    token = form_token(request)
    if request.cookies.get(FORM_COOKIE) != token:
        _set_cookie(request, response, FORM_COOKIE, token, None)


def check_form(request: Request, token: object) -> None:
    """Raise HttpRefusal for a form that this browser did not get from the console."""
    known = request.cookies.get(FORM_COOKIE, "")
    if not known or not isinstance(token, str) or not hmac.compare_digest(known.encode(), token.encode()):
        raise HttpRefusal(403, "foreign_form", "the form has expired: go back, load the page again and send it again")


def _signature(secret: bytes, key_id: UUID, ends: int) -> str:
    return hmac.new(secret, f"session.{key_id}.{ends}".encode(), hashlib.sha256).hexdigest()


def _set_cookie(request: Request, response: Response, name: str, value: str, seconds: int | None) -> None:
    response.set_cookie(
        name, value, max_age=seconds, path=request.scope.get("root_path", "") or "/", httponly=True, samesite="strict",
        secure=_comes_by_tls(request),
    )  # fmt: skip


def _comes_by_tls(request: Request) -> bool:
    """Whether the browser loads the console by TLS, which a proxy may end. Any client is believed: the cookies are its
    own."""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    origin = request.headers.get("origin", "")  # of the page that sends a form; it is of this site
    return "https" in (request.url.scheme, forwarded) or origin.startswith("https://")
