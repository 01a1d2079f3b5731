"""Routes without query parameters refuse a query: a name that is wrong, or of another route, is not ignored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.serve.api.open_api import query_names
from dspex.serve.api.request_bodies import read_query

__all__ = ["refusing_queries"]


def refusing_queries(routes: Iterable[Route]) -> Iterator[Route]:
    """The routes; one that is described without query parameters raises ValidationError for a query."""
    described = query_names()
    for route in routes:
        names = [described.get((method, route.path)) for method in route.methods or ()]
        yield _refusing(route) if () in names else route


def _refusing(route: Route) -> Route:
    async def endpoint(request: Request) -> Response:
        read_query(request.query_params, {})
        response: Response = await route.endpoint(request)
        return response

    return Route(route.path, endpoint, methods=sorted(route.methods or ()), name=route.name)
