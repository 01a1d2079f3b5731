"""Halves of characters: surrogates without their other half, which UTF-8 does not have."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["HALF", "join_halves", "replace_halves"]

HALF = re.compile("[\ud800-\udfff]")


def join_halves(text: str) -> str:
    """The text with each two halves of a character as that character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def replace_halves(value: Any) -> Any:
    """The text, or the JSON value, with U+FFFD for each half alone."""
    if isinstance(value, str):
        return value if value.isascii() else HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return list(map(replace_halves, value))
    if isinstance(value, dict):
        return {replace_halves(key): replace_halves(item) for key, item in value.items()}
    return value
