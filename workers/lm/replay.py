"""A model call as plain data: the hash that names it, and the text of its answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["answer_text", "request_hash"]


def request_hash(request: Mapping[str, Any], api_base: str | None) -> str:
    """Hex SHA-256 of everything that determines the answer: model, messages, tools, settings and declared address.

    ``request`` is lm15's canonical form. Credentials are not part of it: a rotated key replays what the old one paid
    for.
    """
    content = {"request": request, "api_base": api_base}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # a user's text may have half a character


def answer_text(response: Mapping[str, Any]) -> str:
    """The text of an answer in lm15's canonical form; where lm15 read JSON in it, that JSON."""
    return "".join(map(_part_text, response["message"]["parts"]))


def _part_text(part: Mapping[str, Any]) -> str:
    if part["type"] == "data":
        return json.dumps(part["value"], ensure_ascii=False)
    return str(part["text"]) if part["type"] == "text" else ""
