"""Routes of a program's versions: the list, what differs between two, promotion, aliases and rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.errors import FieldError, ValidationError
from dspex.serve.access.principal import Principal
from dspex.serve.api.json_replies import json_reply
from dspex.serve.api.operator_routes import OPTIONS_BYTES
from dspex.serve.api.request_bodies import PAGE_DEFAULT, page_size, plain_text, read_json, read_query
from dspex.serve.gateway import Gateway, gateway_of
from dspex.serve.improvement.program_history import (
    begin_rollout,
    compared_versions,
    end_rollout,
    guard_of,
    promote,
    set_alias,
    versions_of,
)
from dspex.store.improvement.rollouts import Rollout

__all__ = ["ROUTES"]


async def get_versions(request: Request) -> Response:
    """The versions of a program, the newest first."""
    gateway, principal = await _allowed(request, "read")
    asked = read_query(request.query_params, {"cursor": plain_text, "limit": page_size})
    found, after = await versions_of(
        gateway, principal, request.path_params["name"], after=asked.get("cursor"),
        limit=asked.get("limit", PAGE_DEFAULT),
    )  # fmt: skip
    return json_reply({"versions": [asdict(each) for each in found], "next_cursor": after})


async def get_difference(request: Request) -> Response:
    """What differs between two versions of a program."""
    gateway, principal = await _allowed(request, "read")
    asked = read_query(request.query_params, {"before": plain_text, "after": plain_text})
    faults = [FieldError(name, "a version or an alias") for name in ("before", "after") if not asked.get(name)]
    if faults:
        raise ValidationError.of("query", faults)
    found = await compared_versions(gateway, principal, request.path_params["name"], asked["before"], asked["after"])
    differences = [asdict(each) for each in found.differences]
    return json_reply({"before": found.before, "after": found.after, "differences": differences})


async def get_rollouts(request: Request) -> Response:
    """The rollouts of a program, the newest first."""
    gateway, principal = await _allowed(request, "read")
    name = request.path_params["name"]
    principal.require_program(name)
    await gateway.client.program(name)  # raises ProgramNotFound
    return json_reply({"rollouts": [_rollout(each) for each in await gateway.client.rollouts(name)]})


async def get_changes(request: Request) -> Response:
    """What was done to a program, when and by whom, the newest first."""
    gateway, principal = await _allowed(request, "read")
    name = request.path_params["name"]
    principal.require_program(name)
    if principal.tenant is not None:
        principal.require_whole("the changes of a program")
    await gateway.client.program(name)
    return json_reply({"changes": [asdict(each) for each in await gateway.client.program_changes(name)]})


async def post_promote(request: Request) -> Response:
    """Make a version the current one."""
    gateway, principal = await _allowed(request, "operate")
    name, body = request.path_params["name"], await _body(request, {"version": str})
    await promote(gateway, principal, name, body["version"])
    current = await gateway.client.program(name)
    return json_reply({"name": name, "version": current.version})


async def post_alias(request: Request) -> Response:
    """Let an alias stand for a version."""
    gateway, principal = await _allowed(request, "operate")
    name, body = request.path_params["name"], await _body(request, {"alias": str, "version": str})
    await set_alias(gateway, principal, name, body["alias"], body["version"])
    return json_reply({"name": name, "alias": body["alias"]})


async def post_rollout(request: Request) -> Response:
    """Send a share of the new submits to a version."""
    gateway, principal = await _allowed(request, "operate")
    known = {"version": str, "percent": float, "guard": dict}
    body = await _body(request, known, required=("version",))
    begun = await begin_rollout(
        gateway, principal, request.path_params["name"], body["version"], percent=body.get("percent", 10.0),
        guard=guard_of(body.get("guard", {})),
    )  # fmt: skip
    return json_reply(_rollout(begun), 201)


async def post_end_rollout(request: Request) -> Response:
    """End the rollout of a program."""
    gateway, principal = await _allowed(request, "operate")
    ended = await end_rollout(gateway, principal, request.path_params["name"])
    return json_reply({"ended": None if ended is None else _rollout(ended)})


ROUTES = (
    Route("/v1/programs/{name}/versions", get_versions, methods=["GET"]),
    Route("/v1/programs/{name}/diff", get_difference, methods=["GET"]),
    Route("/v1/programs/{name}/rollouts", get_rollouts, methods=["GET"]),
    Route("/v1/programs/{name}/rollouts", post_rollout, methods=["POST"]),
    Route("/v1/programs/{name}/rollouts/end", post_end_rollout, methods=["POST"]),
    Route("/v1/programs/{name}/changes", get_changes, methods=["GET"]),
    Route("/v1/programs/{name}/promote", post_promote, methods=["POST"]),
    Route("/v1/programs/{name}/aliases", post_alias, methods=["POST"]),
)


async def _allowed(request: Request, scope: str) -> tuple[Gateway, Principal]:
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require(scope)
    return gateway, principal


async def _body(
    request: Request, known: Mapping[str, type], *, required: Sequence[str] | None = None
) -> dict[str, Any]:
    """The members of a body. Raises ValidationError with all faults, HttpRefusal."""
    data = await read_json(request, OPTIONS_BYTES, gateway_of(request).settings.serve_read_seconds)
    if not isinstance(data, dict):
        raise ValidationError.of("request", [FieldError("/", "an object")])
    faults = [FieldError("/" + name[:60], f"only the members {', '.join(known)}") for name in data if name not in known]
    faults += [FieldError(f"/{name}", "a value") for name in required or known if data.get(name) is None]
    for name, kind in known.items():
        if (value := data.get(name)) is not None and not _fits(value, kind):
            faults.append(FieldError(f"/{name}", _KINDS[kind]))
    if faults:
        raise ValidationError.of("request", faults)
    return {name: value for name, value in data.items() if value is not None}


_KINDS: Mapping[type, str] = {str: "text", float: "a number", dict: "an object"}


def _fits(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (isinstance(value, str) and "\0" in value)


def _rollout(each: Rollout) -> dict[str, Any]:
    return {**asdict(each), "guard": each.guard.content}
