"""Monitoring and alerts: an operator learns about it when something goes wrong."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.health.backend_checks import gap_seconds
from dspex.operations.health.conditions import MODEL, Condition
from dspex.store.operations import alerts as alert_store
from dspex.store.operations import health as health_store

#: An alert that has not been delivered after so long is late, in seconds.
LATE_SECONDS = 300
#: Where a worker that listens on every address is probed.
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104
START_BEAT = "start beat: `dspex beat`; and check that workers consume its tasks"
#: Firing alerts that are named.
MOST_NAMED = 5


@check("Every component is healthy", Need.SCHEMA, fix="`dspex health` shows the fix for each component")
def health(deployment: Deployment) -> Finding:
    """The result of the last health check that beat requested: the backends, the queue, the workers."""
    latest = deployment.ask(health_store.latest)
    if latest is None:
        return warning("no check is stored", fix=START_BEAT)
    if _is_old(deployment, latest):
        return warning(f"the last check was {latest['age_seconds']:,.0f} s ago", fix=START_BEAT)
    parts = latest["report"]["components"]
    ill = [f"{name} is {part['status']}" for name, part in parts.items() if part["status"] != Condition.HEALTHY]
    if latest["overall"] == Condition.UNHEALTHY:
        return not_met("; ".join(ill))
    return (
        warning("; ".join(ill))
        if ill
        else met(f"{counted(len(parts), 'component')}, {latest['age_seconds']:,.0f} s ago")
    )


@check("Models answer the workers", Need.SCHEMA, fix="`dspex health` shows how each model failed")
def models(deployment: Deployment) -> Finding:
    """For each model in use, whether it answered recently, by the last health check."""
    latest = deployment.ask(health_store.latest)
    if latest is None or _is_old(deployment, latest):
        return not_applicable("there is no recent health check")
    parts = latest["report"]["components"]
    found = {name.removeprefix(MODEL): part["status"] for name, part in parts.items() if name.startswith(MODEL)}
    if not found:
        return not_applicable("no model was used within a day")
    ill = [f"{name} is {status}" for name, status in found.items() if status == Condition.UNHEALTHY]
    return not_met("; ".join(ill)) if ill else met(", ".join(found))


def _is_old(deployment: Deployment, check: Mapping[str, Any]) -> bool:
    """Whether later health checks are missing."""
    interval = check["report"].get("interval_seconds", deployment.settings.health_interval_seconds)
    return bool(check["age_seconds"] > gap_seconds(interval))


@check("Alerts have a channel", Need.SETTINGS, fix="set DSPEX_ALERTS to email or webhook, and the channel's settings")
def alerts(deployment: Deployment) -> Finding:
    """In production alerts go by email or to a webhook, not only into a log."""
    channels = deployment.settings.alerts
    if not channels:
        return warning("no channel is set")
    evidence = f"by {', '.join(channels)}"
    if deployment.production and not set(channels) & {"email", "webhook"}:
        return warning(evidence)
    return met(evidence)


@check("Alerts are delivered", Need.SCHEMA, fix="run `dspex alerts test`, and fix the server that refuses them")
def deliveries(deployment: Deployment) -> Finding:
    """No alert has waited for its delivery for minutes because a mail server or a webhook refuses it. What is left of
    a channel that was removed from DSPEX_ALERTS is named apart."""
    channels = deployment.settings.alerts
    found = deployment.ask(alert_store.delivery_counts, channels=channels, late_seconds=LATE_SECONDS)
    within = f"not delivered within {LATE_SECONDS // 60} minutes"
    if found.late:
        return not_met(f"{found.late:,} by {found.channels} {within}")
    if found.late_elsewhere:
        return warning(
            f"{found.late_elsewhere:,} by {found.channels_elsewhere}, which DSPEX_ALERTS does not name here, {within}; "
            "they are sent only if DSPEX_ALERTS of beat names it"
        )
    return met(f"{found.delivered:,} delivered within a week, none is late")


@check("No alert is firing", Need.SCHEMA, fix="`dspex alerts` shows which, since when and the threshold")
def firing(deployment: Deployment) -> Finding:
    """The alerts that are firing now."""
    open = deployment.ask(alert_store.listing, resolved_within_seconds=0, most=MOST_NAMED)
    summaries = [alert["summary"] for alert in open if alert["state"] == "firing"]
    return warning("; ".join(summaries)) if summaries else met("none")


@check(
    "Workers can be scraped and probed", Need.SCHEMA, fix="set DSPEX_HTTP_PORT for the workers; see the worker's log"
)
def http(deployment: Deployment) -> Finding:
    """With DSPEX_HTTP_PORT a worker answers probes and Prometheus; a worker on this machine is probed."""
    port = deployment.settings.http_port
    if port is None:
        return (warning if deployment.production else not_applicable)("DSPEX_HTTP_PORT is not set here")
    if not any(worker["host"] == socket.gethostname() for worker in deployment.live_workers):
        return not_applicable("no worker runs on this machine")
    address = ANY_ADDRESS.get(deployment.settings.http_address, deployment.settings.http_address)
    connection = HTTPConnection(address, port, timeout=3)
    try:
        connection.request("GET", "/health/live")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return not_met(f"port {port}: {error}")
    finally:
        connection.close()
    return met(f"port {port} answers") if status == 200 else not_met(f"port {port} answers {status}")
