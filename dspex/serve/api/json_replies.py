"""JSON of responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from starlette.responses import Response

__all__ = ["json_bytes", "json_reply"]

MEDIA_TYPE = "application/json"


def json_bytes(data: Any) -> bytes:
    """Data as JSON in UTF-8: times as ISO 8601, ids as text."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=_plain)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return json.dumps(data, separators=(",", ":"), default=_plain).encode()


def json_reply(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response with JSON."""
    return Response(json_bytes(data), status, headers, MEDIA_TYPE)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
