"""Which attempts were lost without a fault that explains it.

The trail has the last heartbeat of the worker and the time it was declared dead, by Postgres' clock. The nemesis
records when each fault began and ended, by the system's clock. Where the nemesis stepped Postgres' clock, times are
converted back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.chaos.history.evidence import Evidence
from tests.chaos.history.record import Operation
from tests.chaos.history.trails import losses

__all__ = ["AGAINST_ALL", "AGAINST_ONE", "unexplained_losses"]

#: Faults of one worker, whose process id is in ``given["pid"]``.
AGAINST_ONE = frozenset({"kill_worker", "freeze_worker", "worker_ended"})
#: Faults that keep every worker from Postgres.
AGAINST_ALL = frozenset({
    "cut_postgres", "delay_postgres", "swallow_postgres", "half_close_postgres", "restart_postgres", "crash_postgres",
    "fill_disk",
})  # fmt: skip
#: So long after a fault a worker may still be without its lease: reconnecting, or restarted beside others.
AFTERMATH_SECONDS = 10.0


def unexplained_losses(evidence: Evidence) -> Iterator[str]:
    """Attempts whose worker was declared dead while no fault kept it from its lease."""
    faults = [o for o in evidence.of("fault") if o.given["kind"] in AGAINST_ONE | AGAINST_ALL]
    clock = _Clock(evidence.of("fault", outcome="ok"))
    for id, snapshot in evidence.stored.items():
        for loss in losses(snapshot["trail"]["events"]):
            data = loss["data"]
            if not any(_explains(fault, data, clock) for fault in faults):
                yield (
                    f"{id}: attempt {loss['attempt']} was taken from the living worker {data['pid']}, last heard of at "
                    f"{data['last_heartbeat_at']} and declared dead at {data['found_at']}"
                )


class _Clock:
    """Postgres' clock as the nemesis set it: by how much it was ahead, and from when on."""

    def __init__(self, faults: Sequence[Operation]) -> None:
        steps = [(f.wall[0], float(f.given["ahead_seconds"])) for f in faults if f.given["kind"] == "step_postgres"]
        begins = [-math.inf, *(at for at, _ in steps)]
        ends = [*(at for at, _ in steps), math.inf]
        self._stretches = list(zip(begins, ends, [0.0, *(ahead for _, ahead in steps)], strict=True))

    def real(self, at: str) -> list[float]:
        """The moments of the system's clock at which Postgres' clock showed this time: more than one after a step."""
        shown = datetime.fromisoformat(at).timestamp()
        return [shown - ahead for begin, end, ahead in self._stretches if begin <= shown - ahead <= end]


def _explains(fault: Operation, loss: Mapping[str, Any], clock: _Clock) -> bool:
    """Whether the fault lay between the last sign of the worker and its being declared dead."""
    if fault.given.get("pid", loss["pid"]) != loss["pid"] or fault.given.get("link") == "clients":
        return False
    began, ended = fault.wall[0], fault.wall[1] + AFTERMATH_SECONDS
    return any(
        heard <= ended and found >= began
        for heard in clock.real(loss["last_heartbeat_at"])
        for found in clock.real(loss["found_at"])
    )
