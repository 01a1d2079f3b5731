"""The token counts of a reply. An answer is never lost for them: if one makes no sense, all of them are unknown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["CHAT", "CLAUDE", "GOOGLE", "plain_usage"]

_MOST = 2**31 - 1  # what the database can hold

#: The counts that lm15 reads, and those in an object of their own.
Names = Mapping[str, tuple[str, ...]]
CHAT: Names = {
    "": ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
    "prompt_tokens_details": ("cached_tokens", "cache_write_tokens", "audio_tokens"),
    "completion_tokens_details": ("reasoning_tokens", "audio_tokens"),
}
CLAUDE: Names = {
    "": ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    "output_tokens_details": ("thinking_tokens",),
}
GOOGLE: Names = {
    "": (
        "promptTokenCount",
        "candidatesTokenCount",
        "responseTokenCount",
        "totalTokenCount",
        "cachedContentTokenCount",
        "thoughtsTokenCount",
    ),
}


def plain_usage(usage: object, names: Names) -> dict[str, Any] | None:
    """The usage with counts that are integers, or None if one of them is no count."""
    if not isinstance(usage, Mapping):
        return None
    try:
        plain: dict[str, Any] = _counts(usage, names[""])
        for part, inner in names.items():
            if part and usage.get(part) is not None:
                plain[part] = _counts(usage[part], inner)
    except (TypeError, ValueError):
        return None
    return {**{name: value for name, value in usage.items() if _is_by_modality(value)}, **plain}


def _counts(usage: object, names: Iterable[str]) -> dict[str, int]:
    if not isinstance(usage, Mapping):
        raise TypeError
    return {name: _count(usage[name]) for name in names if usage.get(name) is not None}


def _count(value: object) -> int:
    """The count. Raises ValueError if it is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    if not 0 <= value <= _MOST or value != int(value):
        raise ValueError
    return int(value)


def _is_by_modality(value: object) -> bool:
    """Whether it is one of Gemini's lists of counts by modality."""
    return isinstance(value, list) and all(
        isinstance(entry, Mapping) and type(entry.get("tokenCount")) is int and entry["tokenCount"] >= 0
        for entry in value
    )
