"""Routes of executions: submit, read, list, follow, cancel, retry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.execution import AsyncExecution
from dspex.client.shown.execution_data import execution_data, shown_values
from dspex.errors import FieldError, ValidationError
from dspex.serve import gateway_metrics
from dspex.serve.access.principal import Principal
from dspex.serve.api.event_stream import event_stream
from dspex.serve.api.json_replies import json_reply
from dspex.serve.api.problem_details import HttpRefusal
from dspex.serve.api.request_bodies import filters_of, plain_text, preferred_wait, read_query, read_submit
from dspex.serve.gateway import Gateway, gateway_of
from dspex.wait.driver import Row

__all__ = ["ROUTES", "idempotency_key", "submit", "whole"]


async def post_execution(request: Request) -> Response:
    """Submit; with ``Prefer: wait`` answer with the outcome if it comes in time."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    name = request.path_params["name"]
    body = await read_submit(request, gateway.settings.max_input_bytes, gateway.settings.serve_read_seconds)
    execution = await submit(
        gateway, principal, name, body.inputs, key=request.headers.get("idempotency-key"), **body.options
    )
    wait = preferred_wait(request, gateway.settings.serve_max_wait_seconds)
    headers = {"Location": f"{request.scope.get('root_path', '')}/v1/executions/{execution.id}"}
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait:g}"
        await execution._settle(gateway.session.driver, wait)
    if execution.status.is_final:
        return json_reply(await whole(gateway, execution), 200, headers)
    return json_reply(execution_data(execution), 202, headers)


async def get_executions(request: Request) -> Response:
    """A page of executions, the newest first."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("read")
    page, after = await gateway.executions(principal, filters_of(request.query_params))
    headers = {}
    if after is not None:
        query = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        path = f"{request.scope.get('root_path', '')}/v1/executions"
        headers["Link"] = f'<{path}?{urlencode([*query, ("cursor", str(after))])}>; rel="next"'
    data = {"executions": [execution_data(each) for each in page], "next_cursor": None if after is None else str(after)}
    return json_reply(data, headers=headers)


async def get_execution(request: Request) -> Response:
    """An execution with its inputs and its result; with ``Prefer: wait`` once it is final, if that comes in time."""
    gateway, _, execution = await _seen(request, "read")
    wait = preferred_wait(request, gateway.settings.serve_max_wait_seconds)
    if wait is not None:
        await execution._settle(gateway.session.driver, wait)
    return json_reply(await whole(gateway, execution))


async def get_events(request: Request) -> Response:
    """The events of an execution as server-sent events."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("read")
    asked = read_query(request.query_params, {"after": plain_text})
    execution = await gateway.execution(principal, request.path_params["id"])
    after = request.headers.get("last-event-id") or asked.get("after")
    return await event_stream(gateway, principal, execution, after)


async def post_cancel(request: Request) -> Response:
    """Cancel an execution: a queued one at once, a running one within about a second."""
    gateway, principal, execution = await _seen(request, "operate")
    await gateway.cancel(principal, execution)
    return json_reply(await whole(gateway, execution), 200 if execution.status.is_final else 202)


async def post_retry(request: Request) -> Response:
    """Queue a failed or cancelled execution again."""
    gateway, principal, execution = await _seen(request, "operate")
    await gateway.retry(principal, execution)
    return json_reply(await whole(gateway, execution), 202)


ROUTES = (
    Route("/v1/programs/{name}/executions", post_execution, methods=["POST"]),
    Route("/v1/executions", get_executions, methods=["GET"]),
    Route("/v1/executions/{id}", get_execution, methods=["GET"]),
    Route("/v1/executions/{id}/events", get_events, methods=["GET"]),
    Route("/v1/executions/{id}/cancel", post_cancel, methods=["POST"]),
    Route("/v1/executions/{id}/retry", post_retry, methods=["POST"]),
)


async def submit(
    gateway: Gateway, principal: Principal, name: str, inputs: Any, *, key: str | None = None, **options: Any
) -> AsyncExecution:
    """Submit inputs that came as JSON, for this principal. Raises HttpRefusal and the errors of Client.submit."""
    principal.require("submit")
    principal.require_program(name)
    await gateway.limits.count(principal)
    stored_key = None if key is None else idempotency_key(principal, key)

    def work() -> Row:
        return gateway.on_loop.submit(name, inputs, idempotency_key=stored_key, tenant=principal.tenant, **options)._row

    execution = gateway.of_row(await gateway.call(work))
    if not principal.sees(execution._row):  # a key without a tenant may have chosen the text of a tenant's key
        detail = f"another execution, which {principal.name} may not see, has this Idempotency-Key: choose another"
        raise HttpRefusal(409, "idempotency_conflict", detail)
    gateway_metrics.submitted(principal.tenant)
    return execution


def idempotency_key(principal: Principal, key: str) -> str:
    """The key as it is stored: tenants that choose the same key do not meet. Raises ValidationError."""
    stored = key if principal.tenant is None else f"{principal.tenant}:{key}"
    if not key or len(stored) > 255:
        expected = f"1 to {255 - len(stored) + len(key)} characters"
        raise ValidationError.of("request", [FieldError("Idempotency-Key", expected, f"{len(key)} characters")])
    return stored


async def whole(gateway: Gateway, execution: AsyncExecution) -> Mapping[str, Any]:
    """An execution as JSON-friendly data, with its inputs and its result."""
    session, row = gateway.session, execution._row
    if session.catalogue.has(row["program"], row["version"]):  # nothing is waited for
        inputs, result = shown_values(session, row)
    else:
        inputs, result = await gateway.call(shown_values, session, row)
    return {**execution_data(execution), "inputs": inputs, "result": result}


async def _seen(request: Request, scope: str) -> tuple[Gateway, Principal, AsyncExecution]:
    """The gateway, who asks, and the execution that the path names. Raises HttpRefusal, ExecutionNotFound."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require(scope)
    return gateway, principal, await gateway.execution(principal, request.path_params["id"])
