"""The Celery tasks: executing, and what beat asks for."""

from __future__ import annotations

from functools import cache
from typing import Any

from dspex.alerts.evaluation import evaluate_and_tell
from dspex.broker import TASK
from dspex.health import HealthCheck
from workers.app import app, settings
from workers.health import check_and_record, health_check
from workers.remote import ExecutionRequest, register
from workers.upkeep import keep_up

__all__ = ["alerts", "execute", "health", "upkeep"]

register()


@app.task(name=TASK, Request=ExecutionRequest)  # type: ignore[untyped-decorator]
def execute(envelope: dict[str, Any]) -> None:
    """Run executions. The pool does it on its loop; this body is reached only under another pool."""
    raise RuntimeError(f"{TASK} needs the pool of DSPex: worker_pool = 'workers.pool:AsyncioPool'")


@app.task(name="dspex.health")  # type: ignore[untyped-decorator]
def health(interval_seconds: float = settings.health_interval_seconds) -> str:
    """Check the health of the deployment, as beat asks so often, and keep the report. Returns its overall verdict."""
    return str(check_and_record(settings, _beats_check(), interval_seconds=interval_seconds).overall)


@cache
def _beats_check() -> HealthCheck:
    """One for all times: it knows which of its parts still hang."""
    return health_check(settings, by_beat=True)


@app.task(name="dspex.alerts")  # type: ignore[untyped-decorator]
def alerts() -> str:
    """Evaluate alerts and tell what follows. Returns how many were told."""
    done = evaluate_and_tell(settings)
    return "another evaluation was under way" if done.skipped else f"{done.told} told"


@app.task(name="dspex.upkeep")  # type: ignore[untyped-decorator]
def upkeep() -> str:
    """Make partitions ahead of time, and remove what is old. Returns how much was done."""
    return keep_up(settings)
