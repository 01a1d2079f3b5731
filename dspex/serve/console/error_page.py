"""Errors as pages: what happened, and what to do next."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dspex.serve.console.page_access import PRINCIPAL
from dspex.serve.console.page_rendering import page, path_of

__all__ = ["error_page", "wants_page"]

_API = ("/v1/", "/openapi.json", "/mcp", "/health/", "/ready", "/metrics")
TITLES = {
    401: "Sign in", 402: "Budget spent", 403: "Not allowed", 404: "Not found", 409: "Not possible now",
    422: "Invalid values", 429: "Too many requests", 503: "Out of reach",
}  # fmt: skip
HINTS = {
    402: "Executions that were accepted before run to their end.",
    404: "It may have been removed by retention, or belong to another tenant.",
    429: "Wait a moment, then send it again.",
    503: "Executions that were submitted are safe in Postgres.",
}
#: After how many seconds a page loads again while a backend is out of reach.
RELOAD_SECONDS = 5


def wants_page(request: Request) -> bool:
    """Whether a request is a browser's, for a page of the console."""
    return not path_of(request).startswith(_API) and "text/html" in request.headers.get("accept", "")


def error_page(request: Request, status: int, code: str, detail: str) -> Response:
    """The page for an error; who is not signed in is led to the form for it."""
    root = request.scope.get("root_path", "")
    if status == 401:
        asked = f"{path_of(request)}?{request.url.query}".removesuffix("?")
        after = f"?next={quote(asked)}" if request.method == "GET" else ""
        return RedirectResponse(f"{root}/sign-in{after}", 303)
    title = TITLES.get(status, "Something went wrong")
    loads_again = status == 503 and request.method == "GET"
    hint = HINTS.get(status, "") + (" This page loads again by itself." if loads_again else "")
    values = {"code": code, "detail": detail.split("\n", maxsplit=1)[0], "hint": hint}
    response = page(request, "error.html", request.scope.get(PRINCIPAL), status=status, title=title, **values)
    if loads_again:
        response.headers["Refresh"] = str(RELOAD_SECONDS)
    return response
