"""Routes that describe the HTTP interface: the OpenAPI document, and the same as a page."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.serve.access.principal import Principal
from dspex.serve.api.json_replies import json_reply
from dspex.serve.api.open_api import description
from dspex.serve.api.program_routes import summaries
from dspex.serve.gateway import Gateway, gateway_of

__all__ = ["ROUTES", "described"]


async def get_description(request: Request) -> Response:
    """The OpenAPI document with the programs that the sender may use."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    return json_reply(await described(gateway, principal, request.scope.get("root_path", "")))


ROUTES = (Route("/openapi.json", get_description, methods=["GET"]),)


async def described(
    gateway: Gateway, principal: Principal, root_path: str, *, names: Collection[str] | None = None
) -> dict[str, Any]:
    """The OpenAPI document for a principal; with ``names``, of these programs alone."""
    found = await summaries(gateway, principal)
    programs = [each.program for each in found if each.program is not None and (names is None or each.name in names)]
    document: dict[str, Any] = await gateway.in_thread(
        description, programs, version=version("dspex"), root_path=root_path
    )
    return document
