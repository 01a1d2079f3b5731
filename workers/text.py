"""Text that must not carry secrets."""

from __future__ import annotations

import re

__all__ = ["redact"]

_SECRETS = re.compile(
    r"(sk-|AKIA|AIza|gh[pousr]_|xox[bap]-)[A-Za-z0-9_\-]{8,}"
    r"|(?i:bearer|api[_-]?key|authorization|password|token)[\"']?\s*[:= ]\s*[\"']?[^\s\"',;]{6,}"
    r"|(?<=://)[^/\s@]+(?=@)"
)


def redact(text: str, *, most: int = 500) -> str:
    """The text with what looks like a secret replaced by ``***``, and at most ``most`` characters of it."""
    clean = _SECRETS.sub("***", text)
    return clean if len(clean) <= most else clean[: most - 1] + "…"
