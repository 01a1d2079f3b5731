"""Pages from templates: every value is escaped, no script or style is inline, and no other host is named."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from dspex.serve.access.principal import Principal
from dspex.serve.access.sign_in import form_token, give_form_token
from dspex.serve.console.page_access import COUNTS
from dspex.serve.console.shown_text import FILTERS, printed

__all__ = ["page", "path_of"]

#: Scripts, styles and connections only of this origin; nothing may frame the console.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: The pages of the navigation: path, name, and whether only a principal who sees everything has it.
PAGES = (
    ("/", "Executions", False), ("/failed", "Failed", False), ("/approvals", "Approvals", False),
    ("/programs", "Programs", False), ("/evaluations", "Evaluations", False),
    ("/optimizations", "Optimisations", False), ("/batches", "Batches", True), ("/schedules", "Schedules", True),
    ("/workers", "Workers", True), ("/health", "Health", True), ("/webhooks", "Webhooks", True),
    ("/alerts", "Alerts", True), ("/docs", "API", False),
)  # fmt: skip


def page(
    request: Request, template: str, principal: Principal | None, *, status: int = 200, title: str, **values: Any
) -> Response:
    """A page from a template; ``values`` are its variables."""
    context: Mapping[str, Any] = {
        "root": request.scope.get("root_path", ""),
        "path": path_of(request),
        "pages": _pages(principal),
        "counts": request.scope.get(COUNTS, {}),
        "principal": principal,
        "token": form_token(request),
        "title": title,
        **values,
    }
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "X-Frame-Options": "DENY"}
    text = _environment().get_template(template).render(context)
    response = Response(text.encode("utf-8", "replace"), status, headers, "text/html")
    give_form_token(request, response)
    return response


def path_of(request: Request) -> str:
    """The path of a request within the console."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")) or "/"


def _pages(principal: Principal | None) -> list[tuple[str, str]]:
    if principal is None:
        return []
    whole = principal.tenant is None and principal.programs is None
    return [(path, name) for path, name, needs_whole in PAGES if whole or not needs_whole]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dspex.serve.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=printed,
    )  # fmt: skip
    environment.filters.update(FILTERS)
    return environment
