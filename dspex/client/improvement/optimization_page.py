"""An optimisation as a self-contained HTML file: the curve of its best score, and scores beside costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate

from dspex.client.improvement.evaluation_page import document, table
from dspex.client.improvement.optimization import Optimization, TriedVersion
from dspex.client.improvement.score_plots import Point, points_plot
from dspex.operations.report.dollars import dollars
from dspex.store.lifecycle.status import Status

__all__ = ["cost_plot", "curve_plot", "optimization_page", "pareto_front"]


def optimization_page(job: Optimization) -> str:
    """The optimisation as an HTML document, as far as it is."""
    tried = job.candidates()
    scored = [each for each in tried if each.score is not None]
    best, score, ended = _best(job, scored)
    progress = job.progress
    facts = {
        "best score": "–" if score is None else f"{score:.3f}",
        "versions tried": f"{len(tried):,}",
        "executions": f"{sum(each.executions for each in tried):,}",
        "cost": dollars(progress.cost_usd, progress.unpriced),
        "state": ended,
    }
    front = {each.version for each in pareto_front(scored)}
    cells = (
        [each.version, _score(each), f"{each.executions:,}", f"{each.failed:,}", dollars(each.cost_usd, each.unpriced),
         ("best" if each.version == best else "") + (" on the front" if each.version in front else "")]
        for each in tried
    )  # fmt: skip
    plots = [
        ("Scores in the order of the candidates, and the best so far", curve_plot(scored)),
        ("Score beside the cost of an execution", cost_plot(scored, front)),
    ]
    columns = ("version", "score", "executions", "failed", "cost", "")
    body = f"<h2>Versions</h2>{table(columns, cells)}"
    title = f"{job.program}: optimisation {job.id}"
    note = "No version has a score yet." if best is None else f"The best version is {best}."
    return document(title, note, facts, plots, body)


def _best(job: Optimization, scored: Sequence[TriedVersion]) -> tuple[str | None, float | None, str]:
    """The best version and its score, of those so far until the job is over; and how it ended, or its status."""
    status = job.execution.status
    if status is Status.COMPLETED:
        result = job.result(timeout=0)
        return result.version, result.score, result.ended
    best = max(scored, key=lambda each: each.score or 0.0, default=None)
    return (None, None, status) if best is None else (best.version, best.score, status)


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


def curve_plot(scored: Sequence[TriedVersion]) -> str:
    """An SVG: the scores in the order of the candidates, and the best so far as a line."""
    points = [(float(number), each.score or 0.0) for number, each in enumerate(scored, 1)]
    best = list(accumulate((score for _, score in points), max))
    line = [(number, score) for (number, _), score in zip(points, best, strict=True)]
    return points_plot(points, [each.version for each in scored], line, "Scores by candidate, and the best so far")


def cost_plot(scored: Sequence[TriedVersion], front: Collection[str]) -> str:
    """An SVG: the score beside the cost of an execution, and a line through the versions that no other one beats."""
    points = [_point(each) for each in scored]
    line = sorted(_point(each) for each in scored if each.version in front)
    names = [f"{each.version}: {dollars(_point(each)[0])}" for each in scored]
    return points_plot(points, names, line, "Score beside the cost of an execution")
