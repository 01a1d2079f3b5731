"""A model call as plain data: the hash that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["request_hash"]


def request_hash(request: Mapping[str, Any], api_base: str | None) -> str:
    """Hex SHA-256 of everything that determines the answer: model, messages, tools, settings and declared address.

    ``request`` is lm15's canonical form. Credentials are no part of it: a rotated key replays what the old one paid
    for.
    """
    content = {"request": request, "api_base": api_base}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
