"""What a right answer is: a worker loads it by name, ``support_desk.metrics:routed``."""

from __future__ import annotations

from typing import Any

__all__ = ["routed"]


def routed(example: Any, prediction: Any, trace: object = None) -> bool:
    """Whether the ticket went to the right queue."""
    return bool(example.queue == prediction.queue)
