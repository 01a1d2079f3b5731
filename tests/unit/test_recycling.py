"""A worker is replaced after a number of executions, or when it holds too much memory."""

from __future__ import annotations

import pytest

from dspex.errors import ConfigurationError
from workers.process.recycling import Recycler, resident_mb
from workers.process.worker_state import WorkerState


def test_a_limit_that_a_fresh_worker_exceeds_is_a_wrong_setting() -> None:
    limit = int(resident_mb() / 2)
    recycler = Recycler(WorkerState(), max_memory_mb=limit, max_executions=None, on_due=lambda: None)
    with pytest.raises(ConfigurationError, match="DSPEX_WORKER_MAX_MEMORY_MB is"):
        recycler.check_limits()


def times_due(*, memory: int | None = None, executions: int | None = None) -> int:
    """How often a worker that received 10 executions is due within three checks."""
    calls: list[None] = []
    worker = WorkerState(received=10)
    recycler = Recycler(worker, max_memory_mb=memory, max_executions=executions, on_due=lambda: calls.append(None))
    for _ in range(3):
        if not recycler._stop.is_set():
            recycler.run_once()
    return len(calls)


def test_it_is_due_once_when_a_limit_is_reached() -> None:
    assert times_due() == 0
    assert times_due(executions=11) == 0
    assert times_due(executions=10) == 1
    assert times_due(memory=int(resident_mb() * 2)) == 0
    assert times_due(memory=int(resident_mb() / 2)) == 1
