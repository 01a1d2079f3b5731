"""Consoles and tables. A table fits the terminal; in a pipe each row is one whole line."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from dspex.cli.output.plain_text import printable

__all__ = ["console", "print_table"]

#: The width of panels and tables without a terminal.
PIPE_WIDTH = 120
#: A table is printed as records when its last column would be narrower.
NARROWEST = 8
GAP = 2

Cell = str | Text


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Leave the error to the command group (main.py)."""
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Everything that is printed passes here. The characters that are left out have no width."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or as COLUMNS."""
    found = _Console(stderr=stderr, highlight=False)
    if not _has_width(found):
        found.width = PIPE_WIDTH
    return found


def print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, optional: Collection[str] = ()
) -> None:
    """Print rows under their columns. No value is cut.

    On a terminal that is too narrow, the columns of ``optional`` are left out first, in that order; then the last
    column is folded; then each row is printed on several lines. In a pipe every row is one line of any length.
    """
    cells = [[cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row] for row in rows]
    if not _has_width(console):
        console.width = max(console.width, _width(columns, cells))
    kept = list(range(len(columns)))
    for name in optional:
        if _width(*_only(kept, columns, cells)) > console.width and name in columns:
            kept.remove(columns.index(name))
    columns, cells = _only(kept, columns, cells)
    lengths = _lengths(columns, cells)
    if sum(lengths[:-1]) + GAP * (len(lengths) - 1) + min(lengths[-1], NARROWEST) > console.width:
        _print_records(console, columns, cells)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, length in zip(columns[:-1], lengths[:-1], strict=True):
        table.add_column(name, no_wrap=True, min_width=length)
    table.add_column(columns[-1], overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _print_records(console: Console, columns: Sequence[str], rows: Iterable[Sequence[Text]]) -> None:
    for first, *others in rows:
        console.print(first, style="bold", soft_wrap=True)
        named = zip(columns[1:], others, strict=True)
        cells = [Text.assemble((f"{name} ", "dim"), cell) for name, cell in named if cell]
        console.print(Text("  ").append_text(Text(", ").join(cells)))


def _only(
    kept: Sequence[int], columns: Sequence[str], rows: Sequence[Sequence[Text]]
) -> tuple[list[str], list[list[Text]]]:
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]


def _width(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> int:
    lengths = _lengths(columns, rows)
    return sum(lengths) + GAP * (len(lengths) - 1)


def _lengths(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> list[int]:
    return [max([len(name), *(row[index].cell_len for row in rows)]) for index, name in enumerate(columns)]


def _has_width(console: Console) -> bool:
    return console.is_terminal or "COLUMNS" in os.environ
