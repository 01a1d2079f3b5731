"""A batch whose executions run one version for a purpose: an evaluation or a replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self
from uuid import UUID

from dspex.client.batch import Batch, Progress
from dspex.client.session import Session
from dspex.submit.batch_rows import BatchRows

__all__ = ["VersionBatch"]


class VersionBatch:
    """The executions of one evaluation or replay. Its attributes are read from the database at each use."""

    def __init__(self, session: Session, rows: BatchRows, *, version: str) -> None:
        self._session = session
        self._batch = Batch(session, rows)
        self._version = version

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind} {self.id} of {self.program}, version {self.version}: {len(self)} executions>"

    def __len__(self) -> int:
        return len(self._batch)

    @property
    def id(self) -> UUID:
        """Its id, which is the id of its batch."""
        return self._batch.id

    @property
    def program(self) -> str:
        """The name of the program."""
        return self._batch.program

    @property
    def version(self) -> str:
        """The version that its executions run."""
        return self._version

    @property
    def batch(self) -> Batch:
        """Its executions as a batch."""
        return self._batch

    @property
    def progress(self) -> Progress:
        """How many of its executions are over, their cost so far, and how long the others will take."""
        return self._batch.progress

    def wait(self, timeout: float | None = None, *, on_progress: Callable[[int], None] | None = None) -> Self:
        """Wait until all of its executions are final, and return it. ``on_progress`` is called with how many are.
        Raises ExecutionTimedOut after ``timeout`` seconds; the executions go on."""
        for done, _ in enumerate(self._batch.as_completed(timeout), 1):
            if on_progress is not None:
                on_progress(done)
        return self

    def cancel(self) -> int:
        """Cancel its executions that are not over. Returns how many."""
        return self._batch.cancel()
