"""Trends as SVG: stacked columns, one for each part of the period."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from dspex.signatures.text_order import escaped

__all__ = ["Series", "columns"]

WIDTH, HEIGHT = 500, 150
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 10, 22
LINES = 4


class Series(NamedTuple):
    """A value for each part, or None. ``kind`` is the CSS class with its colour."""

    name: str
    kind: str
    values: Sequence[float | None]


def columns(series: Sequence[Series], *, since: datetime, until: datetime, format_value: Callable[[float], str]) -> str:
    """An SVG with the series stacked, the first at the bottom, and the values as tooltips."""
    count = len(series[0].values)
    totals = [sum(each.values[part] or 0 for each in series) for part in range(count)]
    most = _rounded(max(totals))
    width, height = (WIDTH - LEFT - RIGHT) / count, HEIGHT - TOP - BOTTOM
    drawn = [_grid(most, format_value), _times(since, until)]
    for part in range(count):
        if not totals[part]:
            continue
        floor: float = HEIGHT - BOTTOM
        bars = []
        for each in series:
            tall = (each.values[part] or 0) / most * height
            floor -= tall
            if tall:
                bars.append(f'<rect class="{each.kind}" x="{LEFT + part * width + 0.5:.1f}" y="{floor:.1f}" '
                            f'width="{max(width - 1, 0.5):.1f}" height="{tall:.1f}"/>')  # fmt: skip
        begin = since + (until - since) / count * part
        values = ", ".join(f"{each.name} {format_value(each.values[part] or 0)}" for each in series)
        drawn.append(f"<g>{''.join(bars)}<title>{begin:%m-%d %H:%M} UTC: {escaped(values)}</title></g>")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(drawn)}</svg>'


def _grid(most: float, format_value: Callable[[float], str]) -> str:
    drawn = []
    for line in range(LINES + 1):
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * line / LINES
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(
            f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{format_value(most * line / LINES)}</text>'
        )
    return "".join(drawn)


def _times(since: datetime, until: datetime) -> str:
    form = "%H:%M" if (until - since).total_seconds() <= 90_000 else "%m-%d %H:%M"
    drawn = []
    for mark in range(5):
        x = LEFT + (WIDTH - LEFT - RIGHT) * mark / 4
        anchor = ("start", "middle", "middle", "middle", "end")[mark]
        at = since + (until - since) * mark / 4
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{at.strftime(form)}</text>')
    return "".join(drawn)


def _rounded(most: float) -> float:
    """The next round number, so that the labels of the grid are short."""
    if most <= 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(most))
    return float(next(factor * step for factor in (1, 2, 4, 8, 10) if factor * step >= most))
