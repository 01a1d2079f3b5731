"""Routes of programs: what is deployed, and pausing and resuming it."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.serve.access.principal import Principal
from dspex.serve.api.json_replies import json_reply
from dspex.serve.gateway import Gateway, gateway_of
from dspex.store import programs
from dspex.store.programs import ProgramSummary

__all__ = ["ROUTES", "program_names", "summaries"]


async def get_programs(request: Request) -> Response:
    """The deployed programs."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("read")
    return json_reply({"programs": [_data(each, principal) for each in await summaries(gateway, principal)]})


async def get_program(request: Request) -> Response:
    """A deployed program with the JSON Schemas of its inputs and outputs."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("read")
    return json_reply(await _whole(gateway, principal, request.path_params["name"]))


async def post_pause(request: Request) -> Response:
    """Begin no execution of the program until it is resumed."""
    gateway, principal, name = await _operated(request)
    await gateway.pause(principal, name)
    return json_reply(await _whole(gateway, principal, name))


async def post_resume(request: Request) -> Response:
    """Begin executions of a paused program again."""
    gateway, principal, name = await _operated(request)
    await gateway.resume(principal, name)
    return json_reply(await _whole(gateway, principal, name))


ROUTES = (
    Route("/v1/programs", get_programs, methods=["GET"]),
    Route("/v1/programs/{name}", get_program, methods=["GET"]),
    Route("/v1/programs/{name}/pause", post_pause, methods=["POST"]),
    Route("/v1/programs/{name}/resume", post_resume, methods=["POST"]),
)


async def summaries(gateway: Gateway, principal: Principal) -> list[ProgramSummary]:
    """The deployed programs that this principal may use."""
    found = await gateway.client.programs()
    return [each for each in found if principal.programs is None or each.name in principal.programs]


async def program_names(gateway: Gateway, principal: Principal) -> list[str]:
    """The names of these programs."""
    found = await gateway.call(gateway.session.database.run, partial(programs.names, internal=False))
    return [each for each in found if principal.programs is None or each in principal.programs]


async def _whole(gateway: Gateway, principal: Principal, name: str) -> dict[str, Any]:
    principal.require_program(name)
    program = await gateway.client.program(name)  # raises ProgramNotFound
    summary = next(each for each in await gateway.client.programs(internal=True) if each.name == name)
    signature = program.signature
    return {
        **_data(summary, principal),
        "signature": signature.definition,
        "fingerprint": signature.fingerprint,
        "inputs_schema": signature.json_schema("inputs"),
        "outputs_schema": signature.json_schema("outputs"),
    }


async def _operated(request: Request) -> tuple[Gateway, Principal, str]:
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("operate")
    return gateway, principal, request.path_params["name"]


def _data(summary: ProgramSummary, principal: Principal) -> dict[str, Any]:
    """A program as JSON-friendly data. Counts and cost cover all tenants, so the key of one does not get them."""
    program = summary.program
    data: dict[str, Any] = {
        "name": summary.name, "version": summary.version, "deployed_at": summary.deployed_at,
        "description": program and program.signature.description, "model": program and program.model,
        "module": program and program.module, "paused": summary.paused_at is not None,
        "paused_reason": summary.paused_reason,
    }  # fmt: skip
    if principal.tenant is None:
        data |= {"queued": summary.queued, "running": summary.running, "spent_usd": summary.spent_usd}
    return data
