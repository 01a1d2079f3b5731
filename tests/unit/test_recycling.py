"""A worker is worn out by what it received or by what it holds."""

from __future__ import annotations

import pytest

from dspex.errors import ConfigurationError
from workers.process.recycling import Recycler, resident_mb


def test_a_limit_that_a_fresh_worker_exceeds_is_a_wrong_setting() -> None:
    recycler = Recycler(
        max_memory_mb=int(resident_mb() / 2), max_executions=None, received=lambda: 0, on_worn=lambda: None
    )
    with pytest.raises(ConfigurationError, match="DSPEX_WORKER_MAX_MEMORY_MB is"):
        recycler.check_limits()


def worn(*, memory: int | None = None, executions: int | None = None) -> int:
    """How often it is said in three looks of a worker that received 10 executions."""
    said: list[None] = []
    recycler = Recycler(
        max_memory_mb=memory, max_executions=executions, received=lambda: 10, on_worn=lambda: said.append(None)
    )
    for _ in range(3):
        if not recycler._stop.is_set():
            recycler.run_once()
    return len(said)


def test_it_is_said_once_when_a_limit_is_reached() -> None:
    assert worn() == 0
    assert worn(executions=11) == 0
    assert worn(executions=10) == 1
    assert worn(memory=int(resident_mb() * 2)) == 0
    assert worn(memory=int(resident_mb() / 2)) == 1
