"""The page of approvals, and the forms of people's part: decisions about calls of tools, feedback on executions."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.execution import AsyncExecution
from dspex.errors import AlreadyDecided, ApprovalNotFound, FieldError, ValidationError
from dspex.serve.access.principal import Principal
from dspex.serve.api.program_routes import program_names
from dspex.serve.api.review_routes import approval_filters, cursor_of
from dspex.serve.console.execution_pages import show_execution
from dspex.serve.console.input_form import outputs_of_form
from dspex.serve.console.page_access import act, go_to, open_page, text_of
from dspex.serve.console.page_rendering import page
from dspex.serve.gateway import Gateway

__all__ = ["ROUTES"]

#: How many calls a page lists.
LISTED = 50
#: The largest form of a decision.
DECISION_BYTES = 64 * 1024


async def approvals_page(request: Request) -> Response:
    """Calls of tools that wait for a decision, the oldest first."""
    gateway, principal = await open_page(request)
    return await _list(request, gateway, principal)


async def decide(request: Request) -> Response:
    """Approve or reject a call. Who comes second reads who was first."""
    gateway, principal, form = await act(request, "operate", most=DECISION_BYTES)
    execution = await gateway.execution(principal, request.path_params["id"])
    decision = text_of(form, "decision")
    if decision not in ("approve", "reject"):
        raise ValidationError.of("the form", [FieldError("decision", "approve or reject")])
    approved, note = decision == "approve", text_of(form, "note").strip()
    try:
        await gateway.decide(principal, execution, text_of(form, "call"), approved=approved, note=note or None)
    except (AlreadyDecided, ApprovalNotFound) as error:
        return await _list(request, gateway, principal, late=error, execution=execution)
    if text_of(form, "from") == "list":
        return go_to(request, f"/approvals?{'approved' if approved else 'rejected'}={execution.id}")
    return go_to(request, f"/executions/{execution.id}")


async def give_feedback(request: Request) -> Response:
    """Judge an execution that has ended."""
    gateway, principal, form = await act(request, "submit")
    execution = await gateway.execution(principal, request.path_params["id"])
    signature = await gateway.call(gateway.session.signature, execution._row)
    outputs, given = outputs_of_form(signature, form)
    given |= {name: text_of(form, name).strip() for name in ("score", "note")}
    try:
        await gateway.give_feedback(
            principal, execution, score=_score(given["score"]), outputs=outputs or None, note=given["note"] or None
        )
    except ValidationError as error:
        return await show_execution(request, gateway, principal, execution, given=given, error=error)
    return go_to(request, f"/executions/{execution.id}#feedback")


ROUTES = (
    Route("/approvals", approvals_page, methods=["GET"]),
    Route("/executions/{id}/decide", decide, methods=["POST"]),
    Route("/executions/{id}/feedback", give_feedback, methods=["POST"]),
)


async def _list(
    request: Request, gateway: Gateway, principal: Principal, *, late: AlreadyDecided | ApprovalNotFound | None = None,
    execution: AsyncExecution | None = None,
) -> Response:  # fmt: skip
    """The page; ``late`` is why a decision about a call of ``execution`` was not stored."""
    asked, _ = approval_filters(request.query_params, extra=_DECIDED)
    found, after = await gateway.approvals(principal, asked, limit=LISTED)
    return page(
        request, "approvals.html", principal, title="Approvals", status=200 if late is None else 409, approvals=found,
        next_cursor=None if after is None else cursor_of(after), asked=replace(asked, after=None),
        is_first=asked.after is None, late=late, execution=execution, decided=_decided(request),
        programs=await program_names(gateway, principal),
    )  # fmt: skip


#: What the address of the page has after a decision: the execution that goes on.
_DECIDED = ("approved", "rejected")


def _decided(request: Request) -> tuple[str, UUID] | None:
    for kind in _DECIDED:
        try:
            return kind, UUID(request.query_params.get(kind, ""))
        except ValueError:
            continue
    return None


def _score(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise ValidationError.of("feedback", [FieldError("score", "a number", text[:80])]) from None
