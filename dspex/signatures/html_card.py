"""Small tables of HTML for notebooks. Every text is escaped: it may come from users and models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dspex.signatures.text_order import escaped

__all__ = ["card", "table"]

_MOST_CHARACTERS = 500
_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top;white-space:pre-wrap"


def card(title: str, pairs: Iterable[tuple[str, object]]) -> str:
    """A title, and a line for each name and value."""
    return table(title, (), [(name, value) for name, value in pairs])


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A title, and a table below it."""
    head = f"<tr>{''.join(map(_header, columns))}</tr>" if columns else ""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<div><strong>{_shown(title)}</strong><table>{head}{body}</table></div>"


def _header(text: str) -> str:
    return f'<th style="{_CELL}">{_shown(text)}</th>'


def _cell(value: object) -> str:
    return f'<td style="{_CELL}">{_shown(value)}</td>'


def _shown(value: object) -> str:
    text = str(value)
    return escaped(text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…")
