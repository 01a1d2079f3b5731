"""The Prometheus metrics of a gateway process, by name; served at ``/metrics`` to keys that may read everything.

Labels are bounded: routes as the description has them, and the first tenants; later ones share "other".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspex.operations.bounded_labels import Bounded

__all__ = ["MOST_TENANTS", "REGISTRY", "CountedRequests", "exposition", "refused", "schedules_fired", "streams_open",
           "submitted", "webhook_sent"]  # fmt: skip

REGISTRY = CollectorRegistry()

#: How many tenants have their own labels in one process.
MOST_TENANTS = 200
MOST_CODES = 100
#: The label of executions without a tenant, and of requests whose path is no route.
NONE = "none"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Counter(
    "dspex_http_requests_total", "Requests that were answered. route: as in openapi.json, or none; status: its class",
    ("method", "route", "status"), registry=REGISTRY,
)  # fmt: skip
DURATION = Histogram(
    "dspex_http_request_seconds", "From a request until its response begins, with the wait that it asked for",
    ("route",), buckets=_SECONDS, registry=REGISTRY,
)  # fmt: skip
SUBMITTED = Counter(
    "dspex_http_submitted_total", "Executions that were submitted, rows of batches among them", ("tenant",),
    registry=REGISTRY,
)  # fmt: skip
REFUSED = Counter(
    "dspex_http_refused_total", "Submits that a rate or a budget refused", ("tenant", "code"), registry=REGISTRY
)
STREAMS = Gauge("dspex_http_streams", "Event streams and downloads that are being sent", registry=REGISTRY)
WEBHOOKS = Counter(
    "dspex_webhooks_total", "Webhooks that were sent. result: delivered, failed", ("result",), registry=REGISTRY
)
SCHEDULES = Counter("dspex_schedules_fired_total", "Due times that were submitted", registry=REGISTRY)
ProcessCollector(namespace="dspex", registry=REGISTRY)

_submitted = Bounded(MOST_TENANTS, SUBMITTED.labels)
_refused = Bounded(MOST_TENANTS, lambda tenant: Bounded(MOST_CODES, lambda code: REFUSED.labels(tenant, code)))
_durations: dict[str, Any] = {}
_requests: dict[tuple[str, str, str], Any] = {}
streams_open = STREAMS.set
schedules_fired = SCHEDULES.inc


def submitted(tenant: str | None, count: int = 1) -> None:
    """Count executions that were submitted."""
    _submitted[tenant or NONE].inc(count)


def refused(tenant: str | None, code: str) -> None:
    """Count a submit that a rate or a budget refused."""
    _refused[tenant or NONE][code].inc()


def webhook_sent(*, delivered: bool) -> None:
    """Count a webhook that was sent."""
    WEBHOOKS.labels("delivered" if delivered else "failed").inc()


def exposition() -> bytes:
    """The metrics as text."""
    return generate_latest(REGISTRY)


class CountedRequests:
    """Counts the requests of an application, by its routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        is_answered = False

        async def counted(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                _answered(scope, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            if not is_answered:  # a bug, which is answered further out
                _answered(scope, 500, time.perf_counter() - began)
            raise


def _answered(scope: Scope, status: int, seconds: float) -> None:
    route = _route(scope)
    method = scope["method"] if route != NONE else NONE  # any text can be a method
    key = (method, route, f"{status // 100}xx")
    if (series := _requests.get(key)) is None:
        series = _requests[key] = REQUESTS.labels(*key)
    series.inc()
    if (duration := _durations.get(route)) is None:
        duration = _durations[route] = DURATION.labels(route)
    duration.observe(seconds)


def _route(scope: Mapping[str, Any]) -> str:
    """The path of the route that served a request, with its parameters' names."""
    application = scope.get("app")
    known: Mapping[Any, str] | None = getattr(application and application.state, "paths", None)
    if application is not None and known is None:
        known = application.state.paths = {
            route.endpoint: route.path for route in application.routes if isinstance(route, Route)
        }
    return (known or {}).get(scope.get("endpoint"), NONE)
