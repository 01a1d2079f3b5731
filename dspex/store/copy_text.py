"""The text format of COPY, as Postgres' documentation of COPY has it.

psycopg's own writer looks for each value's dumper anew, and took a sixth of what storing a batch costs.
"""

from __future__ import annotations

__all__ = ["escaped", "field"]


def escaped(value: str) -> str:
    """A text that may hold anything but U+0000, which Postgres refuses."""
    value = value.replace("\\", "\\\\")
    if "\n" in value or "\r" in value or "\t" in value:
        value = value.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return value


def field(value: object) -> str:
    """Any value whose text Postgres reads: a number, a UUID, a moment with its time zone, a text; None is NULL."""
    return "\\N" if value is None else escaped(str(value))
