"""Removes secrets, and data of users, from text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dspex.errors import FieldError

__all__ = ["fields_at_fault", "redact"]

_SECRETS = re.compile(
    r"(sk-|AKIA|AIza|gh[pousr]_|xox[bap]-)[A-Za-z0-9_\-]{8,}"
    r"|(?i:bearer|api[_-]?key|authorization|password|token)[\"']?(?:\s*+[:=]|\s)\s*+[\"']?[^\s\"',;]{6,}"
    r"|(?<=://)[^/\s@]++(?=@)"
)


def redact(text: str, *, most: int = 500) -> str:
    """The text with what looks like a secret replaced by ``***``, and at most ``most`` characters of it.

    The time is linear in the length of the text: no repetition in the pattern gives back what it took.
    """
    clean = _SECRETS.sub("***", text)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def fields_at_fault(errors: Iterable[FieldError]) -> list[str]:
    """The names of the invalid fields. The rest of a path may contain the words of a user or a model."""
    return sorted({error.path.partition("[")[0].partition(".")[0] for error in errors})
