"""Beat: what it has recorded, read over SQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dspex.settings import Backends
from dspex.store import health
from dspex.store.database import Database
from tests.processes import WorkerProcess, command
from tests.waiting import wait_for


def test_beat_has_the_health_checked_and_recorded(
    backends: Backends, database: Database, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker()
    with command(backends, tmp_path / "beat.log", "beat", DSPEX_HEALTH_INTERVAL_SECONDS="1"):
        record = wait_for(lambda: database.run(health.latest), "a health record", timeout=60)
        assert record is not None
        first = record["id"]
        wait_for(lambda: (database.run(health.latest) or {"id": 0})["id"] > first, "the next one")
    assert record["healthy"], record["components"]
    assert set(record["components"]) == {"postgres", "redis", "workers", "queue"}
    assert record["components"]["workers"]["details"]["alive"] == 1
