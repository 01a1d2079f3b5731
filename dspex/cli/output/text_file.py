"""Files of text that commands write."""

from __future__ import annotations

from pathlib import Path

from dspex.data.replaced_file import naming

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> None:
    """Write a text to a file, a lone surrogate as JSON escapes it. Raises OSError with the name of the file, also for a
    full disk."""
    with naming(path):
        path.write_bytes(text.encode(errors="backslashreplace"))
