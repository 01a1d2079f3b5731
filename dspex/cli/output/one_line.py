"""Values on one line."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["one_line"]


def one_line(value: Any, max_length: int = 200) -> str:
    """Return a value as one line of at most ``max_length`` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
