"""What the services of one worker process share, and what the worker's row in Postgres shows of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from uuid_utils.compat import uuid7

from dspex.store.workers import Vitals
from workers.adapters.setups import finished_setups
from workers.adapters.unrunnable import UnrunnablePrograms
from workers.attempt.executor import Executor
from workers.attempt.sync_threads import SyncThreads
from workers.observe.redis_trouble import REDIS_TROUBLE
from workers.process.loop_watch import LoopWatch
from workers.process.recycling import CpuShare, resident_mb

__all__ = ["VitalSigns", "WorkerState"]

#: The most versions that a worker's row lists; it claims executions of none.
UNRUNNABLE_MOST = 1000


@dataclass
class WorkerState:
    """The id under which this process holds its lease, its phase, and what it has received and refused so far."""

    id: UUID = field(default_factory=uuid7)
    phase: Literal["starting", "running", "stopping"] = "starting"
    received: int = 0
    refused: int = 0

    def current_id(self) -> UUID:
        """The id now: a worker that lost its lease continues under a new one."""
        return self.id

    def mark_running(self) -> None:
        """From now on it is ready to run executions."""
        self.phase = "running"


class VitalSigns:
    """The load and the condition of a worker process."""

    def __init__(
        self,
        worker: WorkerState,
        executor: Executor,
        loop_watch: LoopWatch,
        threads: SyncThreads,
        unrunnable: UnrunnablePrograms,
    ) -> None:
        self._worker = worker
        self._executor = executor
        self._loop_watch = loop_watch
        self._threads = threads
        self._unrunnable = unrunnable
        self._cpu = CpuShare()

    def read(self) -> Vitals:
        """The values that each renewal of the lease stores."""
        return Vitals(
            self._executor.running,
            self._executor.concurrency,
            self._worker.phase,
            self.trouble(),
            memory_bytes=int(resident_mb() * 2**20),
            cpu=self._cpu.since_last_call(),
            unrunnable=self.unrunnable(),
            setups=json.dumps(finished_setups()),
        )

    def unrunnable(self) -> Sequence[str]:
        """The versions that this worker cannot run, as its row has them."""
        return [each.encode() for each in self._unrunnable.versions[:UNRUNNABLE_MOST]]

    def trouble(self) -> str | None:
        """What keeps this worker from doing its work; None if nothing does."""
        if self._loop_watch.trouble is not None:
            return self._loop_watch.trouble
        if strays := self._threads.strays:
            return f"{len(strays)} of {self._threads.most} threads for synchronous code are lost: {strays[0]}"
        return self._executor.trouble or REDIS_TROUBLE.text or self._unrunnable.trouble
