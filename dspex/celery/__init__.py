"""Programs as tasks of a Celery application of your own: see :func:`task`."""

from __future__ import annotations

from dspex.celery.program_task import task

__all__ = ["task"]
