"""Settings of workers."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["WorkerSettings"]


class WorkerSettings(BaseModel):
    """Workers."""

    lease_seconds: float = Field(5.0, ge=1, le=300, description="A worker silent for so long is taken for dead.")
    worker_concurrency: int = Field(200, ge=1, le=10_000, description="Executions in flight in one worker process.")
    worker_threads: int = Field(
        64, ge=1, le=1000, description="Threads of a worker process for synchronous programs and tools."
    )
    worker_processes: int = Field(
        1, ge=1, le=256, description="Processes of `dspex worker`, each with its own executions in flight."
    )
    worker_max_memory_mb: int | None = Field(
        None, ge=100, description="A worker process that holds so much finishes what it runs and is replaced."
    )
    worker_max_executions: int | None = Field(
        None, ge=1, description="A worker process that received so many finishes what it runs and is replaced."
    )
    grace_seconds: float = Field(
        30.0, ge=0, le=3600, description="What a stopping worker gives its executions to finish."
    )
    watchdog_seconds: float = Field(
        30.0, ge=1, le=3600, description="A worker that does nothing for so long while work waits ends itself."
    )
