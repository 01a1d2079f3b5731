"""The routes of the console: its pages, signing in and out, and its script and style."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.serve.access.sign_in import give_session, take_session
from dspex.serve.console import execution_pages, operation_pages, program_pages, review_pages
from dspex.serve.console.page_access import go_to, read_form, text_of
from dspex.serve.console.page_rendering import page
from dspex.serve.gateway import gateway_of

__all__ = ["ROUTES"]

ASSETS = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
#: A browser asks again after so long, with the tag of what it has.
ASSET_SECONDS = 300
#: The largest form that has a key.
SIGN_IN_BYTES = 64 * 1024


async def sign_in_page(request: Request) -> Response:
    """The form for a key."""
    gateway_of(request).access.check_site(request)
    return page(
        request, "sign_in.html", None, title="Sign in", next=_own_path(request.query_params.get("next", "")), fault=""
    )


async def sign_in(request: Request) -> Response:
    """Begin a session with a key."""
    gateway = gateway_of(request)
    gateway.access.check_site(request)
    form = await read_form(request, SIGN_IN_BYTES)
    after, found = _own_path(text_of(form, "next")), await gateway.access.find(text_of(form, "key").strip())
    if found is None or not found.may("read"):
        fault = (
            "This key is unknown, expired or revoked."
            if found is None
            else "This key may not read: it lacks the scope read."
        )
        return page(request, "sign_in.html", None, status=403, title="Sign in", next=after, fault=fault)
    response = go_to(request, after)
    give_session(request, response, found)
    return response


async def sign_out(request: Request) -> Response:
    """End the session in this browser."""
    gateway_of(request).access.check_site(request)
    await read_form(request, SIGN_IN_BYTES)
    response = go_to(request, "/sign-in")
    take_session(request, response)
    return response


async def asset(request: Request) -> Response:
    """The script, the style or the icon."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise HTTPException(404)
    headers = {"Cache-Control": f"public, max-age={ASSET_SECONDS}"}
    return Response(_asset(name), 200, headers, ASSETS[name])


ROUTES = (
    *execution_pages.ROUTES,
    *review_pages.ROUTES,
    *program_pages.ROUTES,
    *operation_pages.ROUTES,
    Route("/sign-in", sign_in_page, methods=["GET"]),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
    Route("/assets/{name}", asset, methods=["GET"]),
)


@cache
def _asset(name: str) -> bytes:
    return files("dspex.serve.console").joinpath("assets", name).read_bytes()


def _own_path(text: str) -> str:
    """A path of the console; the first page in place of an address that leads elsewhere."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    leads_elsewhere = parts.scheme or parts.netloc or not text.startswith("/") or text.startswith(("//", "/\\"))
    return "/" if leads_elsewhere or any(ord(char) < 32 for char in text) else text
