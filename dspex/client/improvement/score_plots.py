"""Plots of scores as SVG, for pages of their own and for the console: colours come from the page's style."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from dspex.signatures.text_order import escaped

__all__ = ["BARS", "Point", "histogram", "histogram_of_counts", "interval_plot", "points_plot"]

#: The bars of a histogram.
BARS = 10
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 500, 170, 48, 34, 12, 12

Point = tuple[float, float]


def _plain_number(value: float) -> str:
    return f"{value:.2f}"


def histogram(sides: Sequence[Sequence[float]], shown: Callable[[float], str] = _plain_number) -> str:
    """An SVG: how many values of each side are in each of ten ranges, the first side at the right."""
    values = [value for side in sides for value in side]
    if not values:
        return "<p>no value</p>"
    low, high = min(values), max(values)
    step = (high - low) / BARS or 1.0
    counts = [Counter(min(int((value - low) / step), BARS - 1) for value in side) for side in sides]
    return histogram_of_counts(counts, low, low + step * BARS, shown)


def histogram_of_counts(
    counts: Sequence[Mapping[int, int]], low: float, high: float, shown: Callable[[float], str] = _plain_number
) -> str:
    """:func:`histogram` of values that were counted: for each side, how many there are in each part of the range."""
    step = (high - low) / BARS
    most = max(max(count.values(), default=1) for count in counts)
    wide, tall = (WIDTH - LEFT - 8) / BARS, HEIGHT - BOTTOM - 10
    drawn = []
    width = (wide - 4) / len(counts)
    for place, count in enumerate(counts):
        left = LEFT + 2 + (len(counts) - 1 - place) * width
        for bar, number in sorted(count.items()):
            height = number / most * tall
            drawn.append(
                f'<rect class="{"second" if place else "first"}" x="{left + bar * wide:.1f}" '
                f'y="{HEIGHT - BOTTOM - height:.1f}" width="{width:.1f}" height="{height:.1f}">'
                f"<title>{shown(low + bar * step)} to {shown(low + (bar + 1) * step)}: {number:,}</title></rect>"
            )
    labels = "".join(
        f'<text x="{LEFT + bar * wide:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{_anchor(bar)}">'
        f"{shown(low + bar * step)}</text>"
        for bar in range(0, BARS + 1, 5)
    )
    axis = f'<text x="{LEFT - 6}" y="18" text-anchor="end">{most:,}</text>'
    return _svg(axis + labels + "".join(drawn), "How values are distributed")


def points_plot(points: Sequence[Point], names: Sequence[str], line: Sequence[Point], about: str) -> str:
    """An SVG with points, their names as tooltips, and a line through some of them."""
    if not points:
        return "<p>no score</p>"
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)

    def place(point: Point) -> Point:
        x, y = ((value - low) / (high - low or 1) for value, low, high in
                ((point[0], low_x, high_x), (point[1], low_y, high_y)))  # fmt: skip
        return LEFT + x * wide, HEIGHT - BOTTOM - y * tall

    drawn = [
        f'<circle class="plain" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escaped(name)}: {point[1]:.3f}</title></circle>'
        for point, name in zip(points, names, strict=True)
        for x, y in [place(point)]
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line))
    drawn.append(f'<polyline class="line" points="{path}"/>')
    drawn.append(f'<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{high_y:.2f}</text>')
    drawn.append(f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end">{low_y:.2f}</text>')
    drawn.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">{low_x:g}</text>')
    drawn.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{high_x:g}</text>')
    return _svg("".join(drawn), about)


def interval_plot(low: float, mean: float, high: float) -> str:
    """An SVG: a mean with its interval beside zero."""
    least, most = min(low, 0.0), max(high, 0.0)
    spread = (most - least) or 1.0
    left, zero, middle, right = (LEFT + (each - least) / spread * (WIDTH - 2 * LEFT) for each in (low, 0, mean, high))
    drawn = (
        f'<line class="zero" x1="{zero:.1f}" y1="6" x2="{zero:.1f}" y2="38"/>'
        f'<line class="interval" x1="{left:.1f}" y1="22" x2="{right:.1f}" y2="22"/>'
        f'<circle class="mean" cx="{middle:.1f}" cy="22" r="6"/>'
        f'<text x="{zero:.1f}" y="54" text-anchor="{_aligned(zero)}">no difference</text>'
    )
    about = f"The mean difference {mean:+.3f} with its interval from {low:+.3f} to {high:+.3f}"
    return f'<svg viewBox="0 0 {WIDTH} 60" role="img" aria-label="{about}">{drawn}</svg>'


def _aligned(x: float) -> str:
    """How a label at a place is aligned, so that neither end is cut off."""
    return "start" if x < WIDTH / 3 else "end" if x > WIDTH * 2 / 3 else "middle"


def _anchor(bar: int) -> str:
    """How the label of a place is aligned: the last one would be cut off."""
    return "end" if bar == BARS else "middle"


def _svg(drawn: str, about: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(about)}">{drawn}</svg>'
