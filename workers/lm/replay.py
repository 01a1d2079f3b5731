"""A model call as plain data: the hash that names it, and its answer as it is journaled and replayed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dspy.clients import call_result
from dspy.clients.execution import request_to_dict
from dspy.lm15 import Request, Response

__all__ = ["request_hash", "response_from_dict", "response_to_dict"]


def request_hash(request: Request, api_base: str | None) -> str:
    """Hex SHA-256 of everything that determines the answer: model, messages, tools, settings and declared address.

    Credentials are no part of it: a rotated key replays what the old one paid for.
    """
    content = {"request": request_to_dict(request), "api_base": api_base}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def response_to_dict(response: Response) -> dict[str, Any]:
    """The answer as JSON-friendly data: all that DSPy reads; the provider's raw body, which repeats it, is left out."""
    data: dict[str, Any] = call_result.response_to_dict(response)
    return data


def response_from_dict(data: dict[str, Any]) -> Response:
    """The answer that :func:`response_to_dict` described."""
    return call_result.response_from_dict(data)
