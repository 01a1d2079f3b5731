"""Routes for operators and their probes: health, readiness, workers, alerts, and the retry of failed executions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.errors import FieldError, SchemaOutdated, ValidationError
from dspex.operations.health.conditions import HealthReport
from dspex.serve import gateway_metrics
from dspex.serve.api.json_replies import json_reply
from dspex.serve.api.request_bodies import read_json
from dspex.serve.gateway import Gateway, gateway_of
from dspex.store.lifecycle.selection import Selection

__all__ = ["ROUTES", "WORKER_COLUMNS"]

#: What is shown of a worker.
WORKER_COLUMNS = ("id", "host", "pid", "version", "state", "running", "concurrency", "heartbeat_age_seconds", "live",
                  "trouble", "memory_bytes", "cpu", "started_at")  # fmt: skip
METRICS_TYPE = "text/plain; version=0.0.4"
#: The largest body of a request that has a few options only.
OPTIONS_BYTES = 64 * 1024


async def get_live(_: Request) -> Response:
    """This process serves requests. It asks no backend: a restart would not bring one back."""
    return json_reply({"status": "live"})


async def get_ready(request: Request) -> Response:
    """Whether requests can be served: Postgres answers, and has the schema of this version."""
    gateway = gateway_of(request)
    if gateway.stopping:
        return json_reply({"status": "stopping"}, 503)
    try:
        await gateway.call(gateway.session.check_schema)
    except SchemaOutdated as error:
        return json_reply({"status": "not ready", "code": error.code, "detail": str(error)}, 503)
    return json_reply({"status": "ready"})


async def get_metrics(request: Request) -> Response:
    """The metrics of this process, for Prometheus."""
    await _operated(request, "read", "the metrics")
    return Response(gateway_metrics.exposition(), media_type=METRICS_TYPE)


async def get_health(request: Request) -> Response:
    """The health of every component. Probes ask for /ready."""
    gateway = await _operated(request, "read", "the health report")
    report: HealthReport = await gateway.client.health()
    return json_reply(report.as_dict())


async def get_workers(request: Request) -> Response:
    """The live workers."""
    gateway = await _operated(request, "read", "the list of workers")
    rows = await gateway.client.workers()
    return json_reply({"workers": [{name: row[name] for name in WORKER_COLUMNS} for row in rows]})


async def get_alerts(request: Request) -> Response:
    """Alerts that fire, are pending, or were resolved within a day."""
    gateway = await _operated(request, "read", "the list of alerts")
    found = await gateway.client.alerts(resolved_within=timedelta(days=1))
    return json_reply({"alerts": [each.as_dict() for each in found]})


async def post_retry_failed(request: Request) -> Response:
    """Queue failed executions again, of a program or with an error code."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("operate")
    data = await read_json(request, OPTIONS_BYTES, gateway.settings.serve_read_seconds)
    selection = _failed(data)
    if selection.program is not None:
        principal.require_program(selection.program)
    limited = Selection(
        program=selection.program, error=selection.error, tenant=principal.tenant,
        programs=None if principal.programs is None else sorted(principal.programs),
    )  # fmt: skip
    retried = await gateway.retry_failed(principal, limited)
    return json_reply({"retried": retried}, 202)


ROUTES = (
    Route("/health/live", get_live, methods=["GET"]),
    Route("/ready", get_ready, methods=["GET"]),
    Route("/metrics", get_metrics, methods=["GET"]),
    Route("/v1/health", get_health, methods=["GET"]),
    Route("/v1/workers", get_workers, methods=["GET"]),
    Route("/v1/alerts", get_alerts, methods=["GET"]),
    Route("/v1/retry-failed", post_retry_failed, methods=["POST"]),
)


async def _operated(request: Request, scope: str, what: str) -> Gateway:
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require(scope)
    principal.require_whole(what)
    return gateway


def _failed(data: Any) -> Selection:
    """The executions that a body names. Raises ValidationError."""
    known = ("program", "error")
    faults = []
    if not isinstance(data, dict):
        raise ValidationError.of("request", [FieldError("/", "an object")])
    for name, value in data.items():
        if name not in known:
            faults.append(FieldError("/" + name[:60], f"only the members {', '.join(known)}", "an unknown member"))
        elif value is not None and (not isinstance(value, str) or "\0" in value):
            faults.append(FieldError("/" + name, "text"))
    if faults:
        raise ValidationError.of("request", faults)
    return Selection(program=data.get("program"), error=data.get("error"))
