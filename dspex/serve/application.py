"""The ASGI application: routes, errors, and what surrounds every response."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspex.client.async_client import AsyncClient
from dspex.errors import DspexError
from dspex.serve.api import (
    batch_routes,
    description_routes,
    execution_routes,
    operator_routes,
    program_routes,
    review_routes,
)
from dspex.serve.api.problem_details import UNEXPECTED, HttpRefusal, detail_of, problem, problem_of, response_of
from dspex.serve.background import in_background
from dspex.serve.console import console_routes
from dspex.serve.console.error_page import error_page, wants_page
from dspex.serve.console.page_rendering import path_of
from dspex.serve.gateway import Gateway
from dspex.serve.gateway_metrics import CountedRequests
from dspex.serve.improvement import evaluation_pages, evaluation_routes, improvement_pages, version_routes
from dspex.serve.mcp_endpoint import McpEndpoint, is_available
from dspex.serve.unqueried_routes import refusing_queries

__all__ = ["application"]

log = logging.getLogger("dspex.serve")

#: Responses of fewer bytes are not compressed.
COMPRESS_BYTES = 1024
EXPOSED = ("Location", "Link", "Preference-Applied", "Retry-After")
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))


def application(client: AsyncClient, *, is_open: bool = False) -> Starlette:
    """The gateway and the console over a client, which stays the caller's. ``is_open``: requests need no key."""
    gateway = Gateway(client, is_open=is_open)
    settings = gateway.settings
    middleware = [
        Middleware(CountedRequests),
        Middleware(_SafeHeaders),
        Middleware(_WithoutSlash),
        Middleware(GZipMiddleware, minimum_size=COMPRESS_BYTES, compresslevel=5),
    ]
    if settings.serve_cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=list(settings.serve_cors_origins), allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Prefer", "Last-Event-ID"],
                expose_headers=EXPOSED,
            )
        )  # fmt: skip
    tools = McpEndpoint(gateway) if is_available() else None
    app = Starlette(
        routes=[
            *refusing_queries(execution_routes.ROUTES),  # first: they are tried in order
            *([tools.route] if tools is not None else []),
            *refusing_queries(
                (
                    *operator_routes.ROUTES,
                    *review_routes.ROUTES,
                    *batch_routes.ROUTES,
                    *program_routes.ROUTES,
                    *version_routes.ROUTES,
                    *evaluation_routes.ROUTES,
                )
            ),
            *description_routes.ROUTES,
            *evaluation_pages.ROUTES,
            *improvement_pages.ROUTES,
            *console_routes.ROUTES,
        ],
        middleware=middleware,
        exception_handlers={
            HttpRefusal: _refused, DspexError: _failed, HTTPException: _not_served, Exception: _unexpected,
        },
        lifespan=_lifespan(gateway, tools),
    )  # fmt: skip
    app.router.redirect_slashes = False
    app.state.gateway = gateway
    return app


def _lifespan(gateway: Gateway, tools: McpEndpoint | None) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            async with in_background(gateway), tools.running() if tools is not None else nullcontext():
                yield
        finally:
            gateway.close()

    return lifespan


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpRefusal)
    if wants_page(request):
        return error_page(request, error.status, error.code, error.detail)
    return response_of(error)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, DspexError)
    response = problem_of(error)
    if response.status_code >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    if wants_page(request):
        return error_page(request, response.status_code, error.code, detail_of(error))
    return response


async def _not_served(request: Request, error: Exception) -> Response:
    """A path that is none, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    if wants_page(request):
        detail = "There is no such page." if error.status_code == 404 else error.detail
        return error_page(request, error.status_code, code, detail)
    detail = f"{request.method} {request.url.path[:200]}: {error.detail}; see /openapi.json"
    return problem(error.status_code, code, detail, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    """A bug. Starlette raises the error again, and the server logs it."""
    if wants_page(request):
        return error_page(request, 500, "unexpected", UNEXPECTED)
    return problem(500, "unexpected", UNEXPECTED)


class _WithoutSlash:
    """Serves a path that ends with a slash as the one without. A redirect would name the scheme that the gateway itself
    is reached by: clients of a proxy with TLS would send their key and their data again in clear text, or not at all.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/") and path_of(Request(scope)).strip("/"):
            scope["path"] = scope["path"].rstrip("/")
        await self._app(scope, receive, send)


class _SafeHeaders:
    """Adds the headers that every response has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[Any] = [*message.get("headers", ()), *_HEADERS]
                if all(name != b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))  # what a key reads is for its bearer alone
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_headers)
