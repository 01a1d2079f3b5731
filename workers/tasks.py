"""The Celery tasks: executing, and the periodic tasks of beat.

The modules of beat's tasks load when a task first runs: most workers of a fleet never need these 1.6 MiB.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from dspex.errors import BackendUnavailable
from dspex.publish.broker import TASK
from workers.app import app, settings
from workers.consume.remote_control import ExecutionRequest, register

if TYPE_CHECKING:
    from dspex.operations.health.check_groups import HealthCheck

__all__ = ["alerts", "execute", "health", "upkeep"]

log = logging.getLogger("dspex.workers")

register()


@app.task(name=TASK, Request=ExecutionRequest)  # type: ignore[untyped-decorator]
def execute(envelope: dict[str, Any]) -> None:
    """Run executions. The pool does it on its loop; this body is reached only under another pool."""
    raise RuntimeError(f"{TASK} needs the pool of DSPex: worker_pool = 'workers.pool:AsyncioPool'")


@app.task(name="dspex.health")  # type: ignore[untyped-decorator]
def health(interval_seconds: float = settings.health_interval_seconds) -> str:
    """Check the health of the deployment and store the report. Returns the overall condition."""
    from workers.observe.health_check import check_and_record

    return str(check_and_record(settings, _health_check(), interval_seconds=interval_seconds).overall)


@cache
def _health_check() -> HealthCheck:
    """One for the process: it remembers which of its checks still hang."""
    from workers.observe.health_check import health_check

    return health_check(settings, by_beat=True)


@app.task(name="dspex.alerts")  # type: ignore[untyped-decorator]
def alerts() -> str:
    """Evaluate alerts and send notifications. Returns how many were sent."""
    from dspex.operations.alerts.alert_evaluation import evaluate_and_notify

    try:
        done = evaluate_and_notify(settings)
    except BackendUnavailable as error:
        return _put_off("alerts are not evaluated", error)
    return "another evaluation is running" if done.skipped else f"{done.sent} sent"


@app.task(name="dspex.upkeep")  # type: ignore[untyped-decorator]
def upkeep() -> str:
    """Create partitions ahead of time and remove old ones. Returns a summary."""
    from workers.process.retention_upkeep import keep_up

    try:
        return keep_up(settings)
    except BackendUnavailable as error:
        return _put_off("upkeep is not done", error)


def _put_off(what: str, error: BackendUnavailable) -> str:
    """Log in a line what beat asks for again at the next interval."""
    log.warning("%s, and tried again later: %s", what, error)
    return "Postgres is out of reach"
