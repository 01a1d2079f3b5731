"""Routes of people's part: approvals of tools' calls, and feedback on executions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.execution import AsyncExecution
from dspex.client.improvement.feedback import Feedback
from dspex.client.shown.review_data import approval_data, feedback_data, shown_feedback
from dspex.errors import FieldError, ValidationError
from dspex.serve.access.principal import Principal
from dspex.serve.api.execution_routes import whole
from dspex.serve.api.json_replies import json_reply
from dspex.serve.api.request_bodies import (
    PAGE_DEFAULT,
    page_size,
    plain_text,
    read_cursor,
    read_id,
    read_json,
    read_query,
)
from dspex.serve.gateway import Gateway, gateway_of
from dspex.store.lifecycle.approvals import CallSelection, Place, is_call_id

__all__ = ["ROUTES", "approval_filters", "cursor_of"]

#: The largest body of a decision.
DECISION_BYTES = 64 * 1024
#: The longest name of who decides or judges, which the name of the key follows.
NAME_MOST = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Check = Callable[[Any], bool]


async def get_approvals(request: Request) -> Response:
    """Calls of tools that wait for a decision, the oldest first."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("read")
    asked, limit = approval_filters(request.query_params)
    page, after = await gateway.approvals(principal, asked, limit=limit)
    cursor = None if after is None else cursor_of(after)
    return json_reply({"approvals": [approval_data(each) for each in page], "next_cursor": cursor})


async def post_approve(request: Request) -> Response:
    """Let an execution make a call that it waits to make."""
    return await _decide(request, approved=True)


async def post_reject(request: Request) -> Response:
    """Have an execution go on without a call that it waits to make."""
    return await _decide(request, approved=False)


async def get_feedback(request: Request) -> Response:
    """The feedback on an execution, the oldest first."""
    gateway, _, execution = await _seen(request, "read")
    found: list[Feedback] = await gateway.call(shown_feedback, gateway.session, execution._row)
    return json_reply({"feedback": [feedback_data(each) for each in found]})


async def post_feedback(request: Request) -> Response:
    """Append a judgement of an execution."""
    gateway, principal, execution = await _seen(request, "submit")
    body = await _body(request, gateway, gateway.settings.max_input_bytes + DECISION_BYTES, _FEEDBACK)
    return json_reply(feedback_data(await gateway.give_feedback(principal, execution, **body)), 201)


ROUTES = (
    Route("/v1/approvals", get_approvals, methods=["GET"]),
    Route("/v1/executions/{id}/approve", post_approve, methods=["POST"]),
    Route("/v1/executions/{id}/reject", post_reject, methods=["POST"]),
    Route("/v1/executions/{id}/feedback", get_feedback, methods=["GET"]),
    Route("/v1/executions/{id}/feedback", post_feedback, methods=["POST"]),
)


async def _decide(request: Request, *, approved: bool) -> Response:
    gateway, principal, execution = await _seen(request, "operate")
    body = await _body(request, gateway, DECISION_BYTES, _DECISION)
    if "call_id" not in body:
        raise ValidationError.of("request", [FieldError("/call_id", "the id of the call, as /v1/approvals has it")])
    await gateway.decide(
        principal, execution, body["call_id"], approved=approved, note=body.get("note"), by=body.get("by")
    )
    return json_reply(await whole(gateway, execution), 202)


async def _seen(request: Request, scope: str) -> tuple[Gateway, Principal, AsyncExecution]:
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require(scope)
    return gateway, principal, await gateway.execution(principal, request.path_params["id"])


async def _body(
    request: Request, gateway: Gateway, most: int, members: Mapping[str, tuple[_Check, str]]
) -> dict[str, Any]:
    """The members of a body that are not null. Raises HttpRefusal, ValidationError with all faults."""
    data = await read_json(request, most, gateway.settings.serve_read_seconds)
    if not isinstance(data, dict):
        raise ValidationError.of("request", [FieldError("/", "an object")])
    given = {name: value for name, value in data.items() if value is not None}
    faults = [
        FieldError("/" + name[:60], f"only the members {', '.join(members)}", "an unknown member")
        for name in data
        if name not in members
    ]
    for name, (fits, expected) in members.items():
        if name in given and not fits(given[name]):
            faults.append(FieldError("/" + name, expected))
    if faults:
        raise ValidationError.of("request", faults)
    return given


def _is_text(value: Any, most: int | None = None) -> bool:
    return isinstance(value, str) and (most is None or len(value) <= most)


_NAMED = (partial(_is_text, most=NAME_MOST), f"text of at most {NAME_MOST} characters")
#: The members of bodies: what each may be. The client checks what is in them.
_DECISION: Mapping[str, tuple[_Check, str]] = {
    "call_id": (_is_text, "text"), "note": (_is_text, "text"), "by": _NAMED,
}  # fmt: skip
_FEEDBACK: Mapping[str, tuple[_Check, str]] = {
    "score": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    "outputs": (lambda value: isinstance(value, dict), "an object with corrected outputs"),
    "note": (_is_text, "text"), "by": _NAMED,
}  # fmt: skip


def approval_filters(query: QueryParams, *, extra: Collection[str] = ()) -> tuple[CallSelection, int]:
    """The filters and the size of a page in a query string. Raises ValidationError; ``extra`` names are read
    elsewhere."""
    found = read_query(QueryParams([pair for pair in query.multi_items() if pair[0] not in extra]), _FILTERS)
    asked = CallSelection(found.get("program"), found.get("execution"), after=found.get("cursor"))
    return asked, found.get("limit", PAGE_DEFAULT)


def cursor_of(place: Place) -> str:
    """The text of a place, for the query of the next page."""
    microseconds = (place.parked_at - _EPOCH) // timedelta(microseconds=1)
    return f"{microseconds}.{place.execution_id}.{place.call_id}"


def _place(text: str) -> Place:
    microseconds, _, rest = text.partition(".")
    id, _, call = rest.partition(".")
    if not (microseconds.isascii() and microseconds.isdigit() and len(microseconds) <= 17 and is_call_id(call)):
        raise ValueError("the cursor of an earlier response")
    return Place(_EPOCH + timedelta(microseconds=int(microseconds)), read_cursor(id), call)


_FILTERS: Mapping[str, Callable[[str], Any]] = {
    "program": plain_text, "execution": read_id, "cursor": _place, "limit": page_size,
}  # fmt: skip
