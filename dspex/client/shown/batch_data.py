"""Batches as JSON-friendly data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dspex.client.batch import Progress

__all__ = ["progress_data"]


def progress_data(progress: Progress) -> dict[str, Any]:
    """The progress as JSON-friendly data."""
    return {**asdict(progress), "finished": progress.finished}
