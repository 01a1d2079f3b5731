"""Settings for workers, crash tests and the demo."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from dspex.settings import failpoints

__all__ = ["TrialSettings", "WorkerSettings"]


class WorkerSettings(BaseModel):
    """Workers."""

    lease_seconds: float = Field(
        5.0, ge=1, le=300, description="A worker without a heartbeat for so long is declared dead."
    )
    worker_concurrency: int = Field(200, ge=1, le=10_000, description="Executions in flight in one worker process.")
    worker_threads: int = Field(
        64, ge=1, le=1000, description="Threads of a worker process for synchronous programs and tools."
    )
    worker_processes: int = Field(
        1, ge=1, le=256, description="Processes of `dspex worker`, each with its own executions in flight."
    )
    worker_max_memory_mb: int | None = Field(
        None, ge=100, description="A worker process with more memory finishes its executions and is replaced."
    )
    worker_max_executions: int | None = Field(
        None, ge=1, description="A worker process that has received so many executions finishes them and is replaced."
    )
    grace_seconds: float = Field(
        30.0, ge=0, le=3600, description="How long a stopping worker waits for its executions to finish."
    )
    child_depth: int = Field(
        5, ge=1, le=100, description="How deep executions may have children; one without a parent is at depth 0."
    )
    children_per_execution: int = Field(10_000, ge=1, le=1_000_000, description="Child executions of one execution.")
    watchdog_seconds: float = Field(
        30.0,
        ge=1,
        le=3600,
        description="A worker is ended that makes no progress for so long while executions are waiting, or whose "
        "threads do not run for so long.",
    )


def _failpoints(spec: str) -> str:
    failpoints.parse(spec)
    return spec


class TrialSettings(BaseModel):
    """Demo and crash tests."""

    failpoints: Annotated[str, AfterValidator(_failpoints)] = Field(
        "",
        description="For crash tests: where this process dies (dspex/settings/failpoints.py). Not allowed in "
        "production.",
    )
    demo_model: str | None = Field(None, description="The model of `dspex demo`. Not set: it chooses one.")
