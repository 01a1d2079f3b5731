"""JSON objects in a model's answer: fenced, with words before it, or slightly broken."""

from __future__ import annotations

import json
import re
from typing import Any

import json_repair

__all__ = ["json_object"]

_FENCE = re.compile(r"^\s*```[a-zA-Z]*\n(.*?)\n?\s*```\s*$", re.DOTALL)


def json_object(answer: str) -> dict[str, Any] | None:
    """The JSON object in the answer, repaired if it is slightly malformed; None if there is none."""
    fenced = _FENCE.match(answer)
    text = fenced.group(1) if fenced else answer
    for read in (json.loads, _repaired):
        try:
            found = read(text)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def _repaired(text: str) -> Any:
    """The JSON from the first brace on, repaired: a missing bracket, a trailing comma."""
    return json_repair.loads(text[max(0, text.find("{")) :])
