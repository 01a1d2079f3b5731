"""The entries of an execution's stream, as a reader takes them.

Workers write them (workers/attempt/stream.py): the id ``ATTEMPT-NUMBER``, and one field ``e`` with a JSON object:
``{"status"}``, ``{"answer", "field", "at", "text"}`` or ``{"answer", "field", "value"}``. Any client of Redis can add
others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dspex.errors import MessageRefused
from dspex.store.lifecycle.status import Status

__all__ = ["NUMBER_MOST", "Position", "read_entry", "read_entry_id"]

#: The attempt, and the number of the entry within it.
Position = tuple[int, int]
#: The numbers of entries are below this.
NUMBER_MOST = 10**9

_ID = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")
_STATUSES = frozenset(Status)


def read_entry_id(id: object) -> Position:
    """The two numbers in the id of an entry. Raises MessageRefused for anything else."""
    found = _ID.fullmatch(id) if isinstance(id, bytes) else None
    if found is None:
        raise MessageRefused("the id of an entry is two numbers", reason="ids")
    return int(found[1]), int(found[2])


def read_entry(id: object, fields: object) -> tuple[Position, dict[str, Any]]:
    """The position and the content of an entry. Raises MessageRefused, with the reason, for anything else."""
    attempt, number = read_entry_id(id)
    if not (attempt and 0 < number < NUMBER_MOST):
        raise MessageRefused("no worker writes an entry with this id", reason="ids")
    match fields:
        case {b"e": bytes() as content}:
            return (attempt, number), _content(content)
    raise MessageRefused("an entry has a field e", reason="shape")


def _content(raw: bytes) -> dict[str, Any]:
    try:
        content: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MessageRefused(f"its content is not JSON: {type(error).__name__}", reason="body") from None
    if not (isinstance(content, dict) and _is_piece(content)):
        raise MessageRefused("its content is not a piece of an answer", reason="shape")
    return content


def _is_piece(content: Mapping[str, Any]) -> bool:
    match content:
        case {"status": status}:
            return isinstance(status, str) and status in _STATUSES
        case {"answer": int(), "field": str(), "text": text}:
            at = content.get("at")
            return isinstance(text, str) and isinstance(at, int) and at >= 0
        case {"answer": int(), "field": str(), "value": _}:
            return True
    return False
