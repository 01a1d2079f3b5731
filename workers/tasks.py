"""The Celery tasks: executing, and what beat asks for."""

from __future__ import annotations

from typing import Any

from dspex.broker import TASK
from workers.app import app, settings
from workers.health import check_and_record
from workers.remote import ExecutionRequest, register

__all__ = ["execute", "health"]

register()


@app.task(name=TASK, Request=ExecutionRequest)  # type: ignore[untyped-decorator]
def execute(envelope: dict[str, Any]) -> None:
    """Run executions. The pool does it on its loop; this body is reached only under another pool."""
    raise RuntimeError(f"{TASK} needs the pool of DSPex: worker_pool = 'workers.pool:AsyncioPool'")


@app.task(name="dspex.health")  # type: ignore[untyped-decorator]
def health() -> str:
    """Check the health of the deployment and keep the result. Returns "healthy" or "unhealthy"."""
    return "healthy" if check_and_record(settings.backends()).healthy else "unhealthy"
