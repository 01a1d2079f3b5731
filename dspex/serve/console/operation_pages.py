"""The pages of batches and of operation: dead letters, workers, health, alerts; and the description of the API."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.batch import AsyncBatch
from dspex.operations.health.conditions import Condition
from dspex.serve.access.principal import Principal
from dspex.serve.api.batch_routes import batch_data, errors_of, output_of, seen_batch
from dspex.serve.api.bounded_stream import BoundedStream
from dspex.serve.api.description_routes import described
from dspex.serve.api.json_replies import json_reply
from dspex.serve.api.program_routes import program_names
from dspex.serve.api.request_bodies import PAGE_MOST, Filters, plain_text, read_id, read_query
from dspex.serve.console.batch_list import seen_batches
from dspex.serve.console.execution_pages import rows_of
from dspex.serve.console.page_access import act, go_to, open_page, text_of
from dspex.serve.console.page_rendering import page
from dspex.serve.gateway import Gateway
from dspex.store.lifecycle.selection import Selection
from dspex.store.lifecycle.status import Status
from dspex.store.operations import webhook_deliveries
from dspex.store.partitions import moment

__all__ = ["ROUTES"]

#: How many executions of a batch, or batches, a page lists.
LISTED = 25
#: Of how many programs the page of the HTTP interface has the routes.
MOST_DESCRIBED = 10
#: How many webhooks are listed.
MOST_WEBHOOKS = 200
DOWNLOAD = "application/jsonl"


async def batches_page(request: Request) -> Response:
    """Batches, the newest first."""
    gateway, principal = await open_page(request)
    principal.require_whole("the list of batches")
    before = read_query(request.query_params, {"cursor": read_id}).get("cursor")
    found, after = await seen_batches(gateway, before=before, limit=LISTED)
    path = request.scope["path"]
    return page(
        request, "batches.html", principal, title="Batches", batches=found,
        is_live=before is None and any(p.finished < p.total for p in (each.progress for each in found) if p),
        first_page=path if before is not None else None, next_page=after and f"{path}?cursor={after}",
    )  # fmt: skip


async def batch_page(request: Request) -> Response:
    """One batch: its progress, its failures by cause, and its latest executions."""
    gateway, principal = await open_page(request)
    batch = await seen_batch(gateway, principal, request.path_params["id"])
    found, _ = await gateway.executions(principal, Filters(batch=batch.id, limit=LISTED))
    return page(
        request, "batch.html", principal, title=f"Batch of {batch.program}", batch=await batch_data(batch),
        begun_at=moment(batch.id), rows=await rows_of(gateway, found),
    )  # fmt: skip


async def batch_output(request: Request) -> Response:
    """The results of a batch as a file of JSON lines."""
    gateway, principal, batch = await _batch(request)
    parts = output_of(gateway, batch, follow=False)
    return BoundedStream(gateway, principal, parts, DOWNLOAD, _as_file(f"{batch.id}.jsonl"))


async def batch_errors(request: Request) -> Response:
    """What has no result in a batch, as a file of JSON lines."""
    gateway, principal, batch = await _batch(request)
    return BoundedStream(gateway, principal, errors_of(gateway, batch), DOWNLOAD, _as_file(f"{batch.id}.errors.jsonl"))


async def cancel_batch(request: Request) -> Response:
    """Cancel the rest of a batch."""
    gateway, principal, _ = await act(request, "operate")
    batch = await seen_batch(gateway, principal, request.path_params["id"])
    await gateway.cancel_batch(principal, batch.id)
    return go_to(request, f"/batches/{batch.id}")


async def retry_batch(request: Request) -> Response:
    """Queue the failed executions of a batch again."""
    gateway, principal, _ = await act(request, "operate")
    batch = await seen_batch(gateway, principal, request.path_params["id"])
    await gateway.retry_failed(principal, Selection(batch_id=batch.id))
    return go_to(request, f"/batches/{batch.id}")


async def failed_page(request: Request) -> Response:
    """Dead letters by program and cause: the latest failed executions."""
    gateway, principal = await open_page(request)
    program = read_query(request.query_params, {"program": plain_text}).get("program")
    found, _ = await gateway.executions(principal, Filters(status=Status.FAILED, program=program, limit=PAGE_MOST))
    groups = Counter((each.program, each.cause_code or "unknown") for each in found)
    return page(
        request, "failed.html", principal, title="Failed", groups=groups.most_common(), is_all=len(found) < PAGE_MOST,
        rows=await rows_of(gateway, found[:LISTED]), count=len(found),
    )  # fmt: skip


async def retry_failed(request: Request) -> Response:
    """Queue the failed executions of a program with one cause again."""
    gateway, principal, form = await act(request, "operate")
    filters = Filters(program=text_of(form, "program") or None, error=text_of(form, "error") or None)
    selection = gateway.selection(principal, filters)
    await gateway.retry_failed(principal, selection)
    return go_to(request, "/failed")


async def workers_page(request: Request) -> Response:
    """The live workers."""
    gateway, principal = await open_page(request)
    principal.require_whole("the list of workers")
    return page(request, "workers.html", principal, title="Workers", workers=await gateway.client.workers())


async def health_page(request: Request) -> Response:
    """The health of every component, and how to fix what is not healthy."""
    gateway, principal = await open_page(request)
    principal.require_whole("the health report")
    report = await gateway.client.health()
    components = sorted(report.components.items(), key=lambda each: each[1].status == Condition.HEALTHY)
    return page(request, "health.html", principal, title="Health", report=report, components=components)


async def alerts_page(request: Request) -> Response:
    """Alerts that fire, are pending, or were resolved within a week."""
    gateway, principal = await open_page(request)
    principal.require_whole("the list of alerts")
    found = await gateway.client.alerts(resolved_within=timedelta(days=7))
    return page(request, "alerts.html", principal, title="Alerts", alerts=found)


async def schedules_page(request: Request) -> Response:
    """What is submitted again and again."""
    gateway, principal = await open_page(request)
    principal.require_whole("the list of schedules")
    return page(request, "schedules.html", principal, title="Schedules", schedules=await gateway.client.schedules())


async def remove_schedule(request: Request) -> Response:
    """Remove a schedule."""
    gateway, principal, form = await act(request, "operate")
    principal.require_whole("a schedule")
    await gateway.client.unschedule(text_of(form, "name"))
    return go_to(request, "/schedules")


async def webhooks_page(request: Request) -> Response:
    """The latest webhooks, and those that were not delivered."""
    gateway, principal = await open_page(request)
    principal.require_whole("the list of webhooks")
    trouble = request.query_params.get("trouble") == "1"
    find = partial(webhook_deliveries.listing, trouble=trouble, most=MOST_WEBHOOKS + 1)
    found = await gateway.call(gateway.session.database.run, find)
    return page(
        request, "webhooks.html", principal, title="Webhooks", trouble=trouble,
        deliveries=found[:MOST_WEBHOOKS], most=MOST_WEBHOOKS if len(found) > MOST_WEBHOOKS else None,
    )  # fmt: skip


async def send_webhook(request: Request) -> Response:
    """Send a webhook again."""
    gateway, principal, form = await act(request, "operate")
    principal.require_whole("a webhook")
    id = text_of(form, "id")
    if id.isascii() and id.isdigit() and len(id) < 18:
        await gateway.call(gateway.session.database.run, partial(webhook_deliveries.send_again, id=int(id)))
    return go_to(request, "/webhooks")


async def docs_page(request: Request) -> Response:
    """The HTTP interface, with the routes of one program or of the first ones; the file has the routes of all."""
    gateway, principal = await open_page(request)
    asked = read_query(request.query_params, {"program": plain_text}).get("program")
    names = await program_names(gateway, principal)
    shown = names[:MOST_DESCRIBED] if asked is None else [asked]
    document = await described(gateway, principal, request.scope.get("root_path", ""), names=shown)
    operations: list[tuple[str, str, dict[str, Any]]] = [
        (method.upper(), path, operation)
        for path, each in document["paths"].items()
        for method, operation in each.items()
    ]
    operations.sort(key=lambda each: "{name}" not in each[1] and each[1].startswith("/v1/programs/"), reverse=True)
    return page(
        request, "docs.html", principal, title="API", document=document, operations=operations, asked=asked,
        names=names if len(names) > MOST_DESCRIBED else (),
    )  # fmt: skip


async def description_file(request: Request) -> Response:
    """The OpenAPI document, for who is signed in to the console."""
    gateway, principal = await open_page(request)
    return json_reply(await described(gateway, principal, request.scope.get("root_path", "")))


ROUTES = (
    Route("/batches", batches_page, methods=["GET"]),
    Route("/batches/{id}", batch_page, methods=["GET"]),
    Route("/batches/{id}/output", batch_output, methods=["GET"]),
    Route("/batches/{id}/errors", batch_errors, methods=["GET"]),
    Route("/batches/{id}/cancel", cancel_batch, methods=["POST"]),
    Route("/batches/{id}/retry", retry_batch, methods=["POST"]),
    Route("/failed", failed_page, methods=["GET"]),
    Route("/failed/retry", retry_failed, methods=["POST"]),
    Route("/workers", workers_page, methods=["GET"]),
    Route("/health", health_page, methods=["GET"]),
    Route("/alerts", alerts_page, methods=["GET"]),
    Route("/schedules", schedules_page, methods=["GET"]),
    Route("/schedules/remove", remove_schedule, methods=["POST"]),
    Route("/webhooks", webhooks_page, methods=["GET"]),
    Route("/webhooks/send", send_webhook, methods=["POST"]),
    Route("/docs", docs_page, methods=["GET"]),
    Route("/docs/openapi.json", description_file, methods=["GET"]),
)


async def _batch(request: Request) -> tuple[Gateway, Principal, AsyncBatch]:
    gateway, principal = await open_page(request)
    return gateway, principal, await seen_batch(gateway, principal, request.path_params["id"])


def _as_file(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
