"""Monitoring and alerts: somebody is told when something goes wrong."""

from __future__ import annotations

import socket
from http.client import HTTPConnection, HTTPException

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_met, skipped, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.health.conditions import MODEL, Condition
from dspex.store.operations import health as health_store

#: An alert that has not been delivered after so long, in seconds, is not read in time.
LATE_SECONDS = 300


@check("Health is as it should be", Need.SCHEMA, mend="`dspex health` says of each component what to do")
def health(deployment: Deployment) -> Finding:
    """What a worker found when beat last had it check: the backends, the queue, the workers, itself."""
    latest = deployment.database.run(health_store.latest)
    if latest is None:
        return warning("no check is stored", mend="start beat: `dspex beat`")
    parts = latest["report"]["components"]
    ill = [f"{name} is {part['status']}" for name, part in parts.items() if part["status"] != Condition.HEALTHY]
    if latest["overall"] == Condition.UNHEALTHY:
        return not_met("; ".join(ill))
    said = f"{counted(len(parts), 'component')}, {latest['age_seconds']:,.0f} s ago"
    return warning("; ".join(ill)) if ill else met(said)


@check("Models answer the workers", Need.SCHEMA, mend="`dspex health` says how each model has failed")
def models(deployment: Deployment) -> Finding:
    """Of each model in use, what the last health check knows: whether it answered of late, and how it failed."""
    latest = deployment.database.run(health_store.latest)
    parts = {} if latest is None else latest["report"]["components"]
    found = {name.removeprefix(MODEL): part["status"] for name, part in parts.items() if name.startswith(MODEL)}
    if not found:
        return skipped("no model was in use within a day")
    ill = [f"{name} is {status}" for name, status in found.items() if status == Condition.UNHEALTHY]
    return not_met("; ".join(ill)) if ill else met(", ".join(found))


@check("Alerts reach somebody", Need.SETTINGS, mend="set DSPEX_ALERTS to email or webhook, and what it needs")
def alerts(deployment: Deployment) -> Finding:
    """In production alerts go where somebody reads them: email or a webhook, not only into a log."""
    channels = deployment.settings.alerts
    said = f"by {', '.join(channels)}" if channels else "to nobody"
    if deployment.production and not set(channels) & {"email", "webhook"}:
        return warning(said)
    return met(said) if channels else warning(said)


@check("Alerts are delivered", Need.SCHEMA, mend="try it: `dspex alerts test`; mend what refuses them")
def deliveries(deployment: Deployment) -> Finding:
    """No alert waits for its delivery for minutes, because a mail server or a webhook refuses it."""
    row = deployment.row(
        """SELECT count(*) FILTER (WHERE delivered_at IS NOT NULL) AS delivered,
            count(*) FILTER (WHERE delivered_at IS NULL AND created_at < now() - make_interval(secs => :late)) AS late,
            string_agg(DISTINCT channel, ', ') FILTER (WHERE delivered_at IS NULL) AS channels
        FROM dspex.alert_deliveries WHERE created_at > now() - interval '7 days'""",
        late=LATE_SECONDS,
    )
    if row.late:
        return not_met(f"{row.late:,} by {row.channels} did not succeed within {LATE_SECONDS // 60} minutes")
    return met(f"{row.delivered:,} delivered within a week, none waits")


@check("No alert is firing", Need.SCHEMA, mend="`dspex alerts` says which, since when and above what")
def firing(deployment: Deployment) -> Finding:
    """What the alerts say just now."""
    rows = deployment.rows("SELECT summary FROM dspex.alerts WHERE state = 'firing' ORDER BY fired_at LIMIT 5")
    return warning("; ".join(row.summary for row in rows)) if rows else met("none")


@check(
    "Workers can be scraped and probed", Need.SCHEMA, mend="set DSPEX_HTTP_PORT for the workers; see the worker's log"
)
def http(deployment: Deployment) -> Finding:
    """With DSPEX_HTTP_PORT a worker answers probes and Prometheus; where one runs on this machine it is asked."""
    port = deployment.settings.http_port
    if port is None:
        return (warning if deployment.production else met)("DSPEX_HTTP_PORT is not set here")
    if not any(worker["host"] == socket.gethostname() for worker in deployment.live_workers):
        return skipped("no worker runs on this machine")
    connection = HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/health/live")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return not_met(f"port {port}: {error}")
    finally:
        connection.close()
    return met(f"port {port} answers") if status == 200 else not_met(f"port {port} answers {status}")
