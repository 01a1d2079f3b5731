"""Code fences around a model's answer."""

from __future__ import annotations

__all__ = ["without_fence"]

_FENCE = "```"


def without_fence(text: str) -> str:
    """The text inside a code fence, without whitespace at its ends, if the fence encloses the whole text.

    Any other text is returned unchanged. The first line may name a language with ASCII letters and digits. The time is
    linear in the length of the text.
    """
    fenced = text.strip()
    opening, newline, rest = fenced.partition("\n")
    if not newline or not opening.startswith(_FENCE) or not rest.endswith(_FENCE):
        return text
    language = opening.removeprefix(_FENCE).rstrip()
    if language and not (language.isascii() and language.isalnum()):
        return text
    return rest.removesuffix(_FENCE).strip()
