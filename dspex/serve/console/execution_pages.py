"""The pages of executions: the list with its filters, one execution, and what can be done with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.audit_trail import AuditTrail
from dspex.client.execution import AsyncExecution
from dspex.client.shown.execution_data import shown_values
from dspex.client.shown.review_data import shown_feedback
from dspex.client.waits.approval import Approval, Approvals, decisions_in
from dspex.errors import ConfigurationError, ExecutionNotFound, ValidationError
from dspex.sealing.values import Sealing
from dspex.serve.access.principal import Principal
from dspex.serve.api.batch_routes import seen_batch
from dspex.serve.api.event_stream import event_stream
from dspex.serve.api.program_routes import program_names
from dspex.serve.api.request_bodies import filters_of
from dspex.serve.console.input_form import controls
from dspex.serve.console.page_access import act, go_to, open_page
from dspex.serve.console.page_rendering import page
from dspex.serve.console.waterfall import waterfall
from dspex.serve.gateway import Gateway
from dspex.store.lifecycle.approvals import CallSelection
from dspex.store.lifecycle.status import Status
from dspex.store.partitions import moment

__all__ = ["ROUTES", "calls_of", "rows_of", "show_execution"]

#: Failures whose cause the operator can do something about, and what.
HINTS: Mapping[str, str] = {
    "authentication": "The provider refused the key: set it where the workers run, and restart them.",
    "billing": "The provider's account has no credit left.",
    "rate_limited": "The provider's limit was reached for longer than the retries took: limit the program.",
    "provider_unavailable": "The provider was out of reach for longer than the retries took: retry later.",
    "budget_exceeded": "The program's budget is spent: deploy it with a larger max_cost_usd, and resume it.",
    "context_window_exceeded": "The prompt is longer than the model accepts: shorten it, or choose another model.",
    "output_unparseable": "The model's answer could not be read: its text is below.",
    "poisoned": "It ended its worker in every attempt: look for memory, or for native code, in the program.",
}
#: The most open approvals of an execution that its page lists.
MOST_APPROVALS = 50
#: What the form of the list has controls for, and the places of pages.
_CONTROLS = frozenset({"q", "program", "status", "tenant", "cursor", "limit"})
_ID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_CODE = re.compile(r"[a-z][a-z_]{2,40}")


async def list_page(request: Request) -> Response:
    """Executions, the newest first."""
    gateway, principal = await open_page(request)
    words = request.query_params.get("q", "").strip()
    if _ID.fullmatch(words):
        return go_to(request, await _place_of(gateway, principal, words))
    programs = await program_names(gateway, principal)
    query = _searched(request.query_params, words, programs)
    filters = filters_of(query)
    found, after = await gateway.latest_executions(principal, filters)
    kept = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor" and pair[1]]
    next_page = None if after is None else "?" + urlencode([*kept, ("cursor", str(after))])
    is_first = filters.before is None
    return page(
        request, "executions.html", principal, title="Executions", rows=await rows_of(gateway, found), words=words,
        filters=filters, programs=programs, statuses=list(Status), next_page=next_page, is_filtered=bool(kept),
        others=_others(request.query_params, query), newest="?" + urlencode(kept) if kept else "",
        is_live=is_first and not all(each.status.is_final for each in found), is_first=is_first,
        searched_to=None if after is None else moment(after),
    )  # fmt: skip


async def execution_page(request: Request) -> Response:
    """One execution: its values, its waterfall, its model calls and its audit trail."""
    gateway, principal = await open_page(request)
    return await show_execution(
        request, gateway, principal, await gateway.execution(principal, request.path_params["id"])
    )


async def show_execution(
    request: Request, gateway: Gateway, principal: Principal, execution: AsyncExecution, *,
    given: Mapping[str, str] | None = None, error: ValidationError | None = None,
) -> Response:  # fmt: skip
    """The page of an execution; with feedback that was ``given`` and does not fit."""
    inputs, result = await gateway.call(shown_values, gateway.session, execution._row)
    trail = await execution.audit_trail
    bars, left_out = waterfall(trail, datetime.now(UTC), is_final=execution.status.is_final)
    verdict = await gateway.in_thread(trail.verify)
    calls, no_calls = await calls_of(gateway, execution)
    is_queued = execution.status is Status.QUEUED
    paused = (await gateway.client.paused()).get(execution.program) if is_queued else None
    review = await _review(gateway, principal, execution, trail)
    signature = await gateway.call(gateway.session.signature, execution._row)
    return page(
        request, "execution.html", principal, title=f"{execution.program} {execution.status}", execution=execution,
        status=200 if error is None else 422, given=given or {}, error=error, **review,
        controls=controls(signature, given, error, side="outputs"), inputs=inputs, result=result, bars=bars,
        left_out=left_out, trail=trail, verdict=verdict, calls=calls, no_calls=no_calls, paused=paused,
        due_at=execution._later,
        hint=HINTS.get(execution.cause_code or "", ""), Status=Status,
    )  # fmt: skip


async def live(request: Request) -> Response:
    """The events of an execution, for its page."""
    gateway, principal = await open_page(request)
    execution = await gateway.execution(principal, request.path_params["id"])
    return await event_stream(gateway, principal, execution, request.headers.get("last-event-id"))


async def cancel(request: Request) -> Response:
    """Cancel an execution."""
    gateway, principal, _ = await act(request, "operate")
    execution = await gateway.execution(principal, request.path_params["id"])
    await gateway.cancel(principal, execution)
    return go_to(request, f"/executions/{execution.id}")


async def retry(request: Request) -> Response:
    """Queue an execution again."""
    gateway, principal, _ = await act(request, "operate")
    execution = await gateway.execution(principal, request.path_params["id"])
    await gateway.retry(principal, execution)
    return go_to(request, f"/executions/{execution.id}")


ROUTES = (
    Route("/", list_page, methods=["GET"]),
    Route("/executions/{id}", execution_page, methods=["GET"]),
    Route("/executions/{id}/live", live, methods=["GET"]),
    Route("/executions/{id}/cancel", cancel, methods=["POST"]),
    Route("/executions/{id}/retry", retry, methods=["POST"]),
)


async def rows_of(gateway: Gateway, found: Any) -> list[tuple[AsyncExecution, dict[str, Any]]]:
    """The executions of a list, each with its inputs."""

    def shown() -> list[tuple[AsyncExecution, dict[str, Any]]]:
        return [(each, shown_values(gateway.session, each._row)[0]) for each in found]

    return await gateway.call(shown)


async def _review(
    gateway: Gateway, principal: Principal, execution: AsyncExecution, trail: AuditTrail
) -> dict[str, Any]:
    """The calls that an execution waits to make, the decisions about others, and the feedback on it."""
    waiting: Sequence[Approval] = ()
    if execution.status is Status.WAITING:
        waiting, _ = await gateway.approvals(principal, CallSelection(execution_id=execution.id), limit=MOST_APPROVALS)
    try:
        decided = await gateway.call(Approvals(gateway.session).decided, trail)
    except ConfigurationError:  # the notes are in the journal, which this role of the database may not read
        decided = decisions_in(trail)
    feedback = await gateway.call(shown_feedback, gateway.session, execution._row)
    return {"waiting": waiting, "decided": decided, "feedback": feedback}


async def _place_of(gateway: Gateway, principal: Principal, id: str) -> str:
    """The page of the execution or the batch with this id. Raises ExecutionNotFound."""
    try:
        return f"/executions/{(await gateway.execution(principal, id)).id}"
    except ExecutionNotFound:
        return f"/batches/{(await seen_batch(gateway, principal, id)).id}"


def _searched(query: QueryParams, words: str, programs: list[str]) -> QueryParams:
    """The query with the words of a search as filters: NAME=VALUE of metadata, a program, or an error code.

    They replace a filter of the same name.
    """
    pairs = [(name, value) for name, value in query.multi_items() if name != "q" and value]
    if not words:
        return QueryParams(pairs)
    name, separator, value = words.partition("=")
    if separator and name.strip():
        found = (f"metadata.{name.strip()}", value.strip())
    elif words in programs:
        found = ("program", words)
    elif _CODE.fullmatch(words):
        found = ("error", words)
    else:
        found = ("batch", str(UUID(int=0)))  # nothing has this id: what is searched is none of these
    return QueryParams([*(pair for pair in pairs if pair[0] != found[0]), found])


def _others(asked: QueryParams, query: QueryParams) -> list[tuple[str, str]]:
    """The filters of the address that the form has no control for, but for those that the words of a search replace."""
    pairs = [(name, value) for name, value in asked.multi_items() if value and name not in _CONTROLS]
    return [(name, value) for name, value in pairs if query[name] == value]


async def calls_of(gateway: Gateway, execution: AsyncExecution) -> tuple[list[Any], str]:
    """The model calls of an execution without sealed answers; else why they cannot be shown."""
    try:
        return await gateway.call(gateway.session.model_calls, execution.id, sealing=Sealing()), ""
    except ConfigurationError:
        return [], "The database's role of this gateway may not read the answers of models."
