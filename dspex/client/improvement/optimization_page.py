"""An optimisation as a self-contained HTML file: the curve of its best score, and scores beside costs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate

from dspex.client.improvement.evaluation_page import document, table
from dspex.client.improvement.optimization import Optimization, TriedVersion
from dspex.operations.report.dollars import dollars

__all__ = ["optimization_page", "pareto_front"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 500, 170, 48, 30, 12, 12

Point = tuple[float, float]


def optimization_page(job: Optimization) -> str:
    """The optimisation as an HTML document. Scores are known once it is over."""
    tried = job.candidates()
    scored = [each for each in tried if each.score is not None]
    result = job.result(timeout=0)
    costs = [each.cost_usd for each in tried if each.cost_usd is not None]
    facts = {
        "best score": "–" if result.score is None else f"{result.score:.3f}",
        "versions tried": f"{len(tried):,}",
        "executions": f"{sum(each.executions for each in tried):,}",
        "cost": dollars(sum(costs) if costs else None),
        "ended": result.ended,
    }
    front = {each.version for each in pareto_front(scored)}
    cells = (
        [each.version, _score(each), f"{each.executions:,}", f"{each.failed:,}", dollars(each.cost_usd),
         ("best" if each.version == result.version else "") + (" on the front" if each.version in front else "")]
        for each in tried
    )  # fmt: skip
    plots = [
        ("Scores in the order of the candidates, and the best so far", _curve(scored)),
        ("Score beside the cost of an execution", _scatter(scored, front)),
    ]
    columns = ("version", "score", "executions", "failed", "cost", "")
    body = f"<h2>Versions</h2>{table(columns, cells)}"
    title = f"{job.program}: optimisation {job.id}"
    return document(title, f"The best version is {result.version}.", facts, plots, body)


def pareto_front(tried: Sequence[TriedVersion]) -> list[TriedVersion]:
    """The versions that no other one beats in both the score and the cost of an execution."""
    front = []
    for each in tried:
        point = _point(each)
        others = (_point(other) for other in tried if other is not each)
        if not any(cost <= point[0] and score >= point[1] and (cost, score) != point for cost, score in others):
            front.append(each)
    return front


def _point(each: TriedVersion) -> Point:
    return (each.cost_usd or 0.0) / max(each.executions, 1), each.score or 0.0


def _score(each: TriedVersion) -> str:
    return "–" if each.score is None else f"{each.score:.3f}"


def _curve(scored: Sequence[TriedVersion]) -> str:
    points = [(float(number), each.score or 0.0) for number, each in enumerate(scored, 1)]
    best = list(accumulate((score for _, score in points), max))
    line = [(number, score) for (number, _), score in zip(points, best, strict=True)]
    return _plot(points, [each.version for each in scored], line)


def _scatter(scored: Sequence[TriedVersion], front: set[str]) -> str:
    points = [_point(each) for each in scored]
    line = sorted(_point(each) for each in scored if each.version in front)
    return _plot(points, [f"{each.version}: {dollars(_point(each)[0])}" for each in scored], line)


def _plot(points: Sequence[Point], names: Sequence[str], line: Sequence[Point]) -> str:
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
        f'<circle class="plain" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(name)}: {point[1]:.3f}</title></circle>'
        for point, name in zip(points, names, strict=True)
        for x, y in [place(point)]
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line))
    drawn.append(f'<polyline fill="none" stroke="var(--good)" stroke-width="1.5" points="{path}"/>')
    drawn.append(f'<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{high_y:.2f}</text>')
    drawn.append(f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end">{low_y:.2f}</text>')
    drawn.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">{low_x:g}</text>')
    drawn.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{high_x:g}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(drawn)}</svg>'
