"""Postgres arrays as text: what a statement over many executions is given.

psycopg's own dumper of lists, which serves any type and any nesting, took a seventh of a busy worker's CPU.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["array", "text_array"]


def array(values: Iterable[object]) -> str:
    """Of what needs no quotes: ids, numbers, booleans."""
    return "{" + ",".join(map(str, values)) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """Of texts, any of which may be None."""
    return "{" + ",".join("NULL" if value is None else _quoted(value) for value in values) + "}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
