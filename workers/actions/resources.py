"""``resource_management``: the resources that an attempt uses, and their limits.

CPU time is the attempt's alone (:mod:`workers.attempt.cpu_meter`). Memory is the worker process's, which hundreds of
executions share. Model time is the sum of the durations of its calls, which may overlap; replayed calls take none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import psutil

from dspex.errors import ActionFailed
from workers.actions import ActionRun, Proceed
from workers.attempt.cpu_meter import METER, CpuMeter

__all__ = ["resource_management"]

MIB = 1024 * 1024


async def resource_management(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
    """Measure, and end the attempt when it exceeds a limit. Raises ActionFailed, ``resource_exceeded``.

    Limits are checked at the attempt's next step on the loop: code that never waits is measured, but not interrupted.
    """
    watch = _ResourceWatch(run)
    watch.refuse()  # when the process is too large already, the program does not begin
    token = METER.set(watch.meter)
    try:
        await watch.meter.steps(_of(proceed))
    except Exception:
        watch.refuse()  # our own error counts, even if an adapter replaced it
        raise
    finally:
        METER.reset(token)
    watch.refuse()
    return watch.used()


async def _of(proceed: Proceed) -> None:
    await proceed()


class _ResourceWatch:
    """Measures from now on, and checks the limits of the action's options."""

    def __init__(self, run: ActionRun) -> None:
        self.meter = CpuMeter(self._check)
        self._run = run
        self._began = time.monotonic()
        self._process = psutil.Process()
        self._memory_before = self._memory_mb()
        self._exceeded: ActionFailed | None = None
        self._interrupts = run.on_failure == "fail"

    def refuse(self) -> None:
        """Raise if a limit is, or was, exceeded."""
        self._exceeded = self._exceeded or self._excess()
        if self._exceeded is not None:
            raise self._exceeded

    def used(self) -> dict[str, Any]:
        model = self._run.model_use()
        memory = self._memory_mb()
        return {
            "cpu_seconds": round(self.meter.cpu_seconds, 6),
            "wall_seconds": round(time.monotonic() - self._began, 6),
            "model_seconds": round(model.seconds, 6),
            "lm_calls": model.calls,
            "memory_mb": round(memory, 1),
            "memory_growth_mb": round(memory - self._memory_before, 1),
            "limits": dict(self._run.options),
        }

    def _check(self) -> ActionFailed | None:
        """The error to raise at the next step: once, so that the attempt can clean up."""
        if self._exceeded is not None or not self._interrupts:
            return None
        self._exceeded = self._excess()
        return self._exceeded

    def _excess(self) -> ActionFailed | None:
        used: dict[str, float] = {"max_cpu_seconds": self.meter.cpu_seconds}
        if self._run.options.keys() & {"max_model_seconds", "max_lm_calls"}:
            model = self._run.model_use()
            used |= {"max_model_seconds": model.seconds, "max_lm_calls": model.calls}
        if "max_memory_mb" in self._run.options:
            used["max_memory_mb"] = self._memory_mb()
        for name, most in self._run.options.items():
            if used[name] > most:
                return ActionFailed(
                    f"resource_management: {name} is {most:g}, and {used[name]:g} were used",
                    code="resource_exceeded",
                    limit=name,
                    result=self.used(),
                )
        return None

    def _memory_mb(self) -> float:
        return float(self._process.memory_info().rss) / MIB
