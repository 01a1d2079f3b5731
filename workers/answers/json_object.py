"""JSON objects in a model's answer: fenced, with words around it, or slightly broken."""

from __future__ import annotations

import json
from typing import Any

import json_repair

from dspex.signatures.values.code_fence import without_fence

__all__ = ["is_repairable", "json_object"]

#: The bounds on text that is repaired. The time of json_repair grows with the square or the cube of the length:
#: ``{ x`` repeated to 32,000 characters took 4 s, ``{"a":[`` and ``{"`` repeated to 1,000 characters 0.8 s. Within
#: these bounds the worst of 1,700 generated texts took 0.33 s.
MOST_CHARACTERS = 2_000
MOST_BRACKETS = 32

_DECODER = json.JSONDecoder(strict=False)


def json_object(answer: str) -> dict[str, Any] | None:
    """The JSON object in the answer; None if there is none.

    A malformed object is repaired within the bounds of :func:`is_repairable`. Beyond them it counts as unreadable, like
    an answer without an object. The time is linear in the length of the answer.
    """
    text = without_fence(answer)
    for read in (json.loads, _enclosed, _repaired):
        try:
            found = read(text)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def is_repairable(text: str) -> bool:
    """Whether the text is short enough for json_repair: at most 2,000 characters, 32 of them opening brackets."""
    return len(text) <= MOST_CHARACTERS and sum(map(text.count, "{[(")) <= MOST_BRACKETS


def _enclosed(text: str) -> Any:
    """The JSON from the first brace on. Words may follow it, but no brace and no quote, since that may be more JSON."""
    begin = text.find("{")
    if begin < 0:
        raise ValueError("no JSON object")
    found, end = _DECODER.raw_decode(text, begin)
    if any(text.find(mark, end) >= 0 for mark in '{"'):
        raise ValueError("more after the JSON object")
    return found


def _repaired(text: str) -> Any:
    """The JSON from the first brace on, repaired: a missing bracket, a trailing comma."""
    text = text[max(0, text.find("{")) :]
    if not is_repairable(text):
        raise ValueError("too long for a repair")
    try:
        return json_repair.loads(text)
    except AssertionError:  # json_repair's own, for some code fences where a key should be
        raise ValueError("cannot be repaired") from None
