"""The pages of evaluations: the list, one as a grid, two compared, and one row of both with its traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.improvement.score_plots import BARS, histogram_of_counts, interval_plot
from dspex.serve.api.program_routes import program_names
from dspex.serve.api.request_bodies import page_size, plain_text, read_id, read_query
from dspex.serve.console.execution_pages import calls_of
from dspex.serve.console.page_access import open_page
from dspex.serve.console.page_rendering import page
from dspex.serve.console.waterfall import Bar, waterfall
from dspex.serve.gateway import Gateway
from dspex.serve.improvement.evaluation_routes import (
    compared_with,
    place_of,
    place_text,
    read_offset,
    read_only,
)
from dspex.serve.improvement.seen_evaluations import (
    EvaluatedRow,
    Progressed,
    SeenEvaluation,
    TwoEvaluations,
    changed_rows,
    lowest_rows,
    progressed,
    rows_in_both,
    seen_evaluation,
    seen_evaluations,
    side_by_side,
)
from dspex.store.improvement.evaluations import BarCount

__all__ = ["ROUTES"]

#: The rows of a page, and the evaluations that another one can be compared with on its page.
PAGE, OTHERS = 50, 25
#: The most bars of each of two waterfalls: the page stays small.
MOST_BARS = 80


@dataclass(frozen=True, slots=True)
class Side:
    """One of two executions of a row: its trace beside the other one's."""

    name: str
    version: str
    row: EvaluatedRow
    bars: Sequence[Bar]
    left_out: int
    calls: Sequence[Any]
    no_calls: str


async def evaluations_page(request: Request) -> Response:
    """Evaluations, the newest first."""
    gateway, principal = await open_page(request)
    asked = read_query(request.query_params, {"program": plain_text, "cursor": read_id, "limit": page_size})
    program = asked.get("program")
    found, after = await seen_evaluations(
        gateway, principal, program=program, before=asked.get("cursor"), limit=asked.get("limit", PAGE)
    )
    known = await progressed(gateway, found)
    return page(
        request, "evaluations.html", principal, title="Evaluations", evaluations=found, known=known, filtered=program,
        programs=await program_names(gateway, principal),
        is_live="cursor" not in asked and not all(each.id in known and known[each.id].is_over for each in found),
        first_page=_address(request, {"program": program}) if "cursor" in asked else None,
        next_page=after and _address(request, {"program": program, "cursor": after}),
    )  # fmt: skip


async def evaluation_page(request: Request) -> Response:
    """One evaluation: its score, how scores are distributed, and its executions, the lowest score first."""
    gateway, principal = await open_page(request)
    asked = read_query(request.query_params, {"only": read_only, "cursor": place_of})
    found, only = await seen_evaluation(gateway, principal, request.path_params["id"]), asked.get("only", "")
    counted = (await progressed(gateway, [found]))[found.id]
    rows, after = await lowest_rows(gateway, found, after=asked.get("cursor"), only=only or None, limit=PAGE)
    others, _ = await seen_evaluations(gateway, principal, dataset=found.purpose.dataset, limit=OTHERS + 1)
    return page(
        request, "evaluation.html", principal, title=f"Evaluation of {found.summary.program}", evaluation=found,
        counted=counted, rows=rows, only=only, tabs=_tabs(counted), plot=await _plot(gateway, [found]),
        others=_with_same_metric_first([each for each in others if each.id != found.id], found.metric),
        first_page=_address(request, {"only": only}) if "cursor" in asked else None,
        next_page=after and _address(request, {"only": only, "cursor": place_text(after)}),
    )  # fmt: skip


async def comparison_page(request: Request) -> Response:
    """Two evaluations: whether the difference is more than noise, and the rows, those that got worse first."""
    gateway, principal = await open_page(request)
    asked = read_query(request.query_params, {"with": plain_text, "show": plain_text, "cursor": read_offset})
    found = await seen_evaluation(gateway, principal, request.path_params["id"])
    two = await side_by_side(gateway, await compared_with(gateway, principal, asked.get("with", "")), found)
    groups = {"": two.rows, **two.groups}
    show = asked.get("show", "") if asked.get("show", "") in groups else ""
    begin = asked.get("cursor", 0)
    query = {"with": two.before.id, "show": show}
    return page(
        request, "comparison.html", principal, title=f"Comparison of {found.summary.program}", two=two,
        rows=await changed_rows(gateway, two, groups[show][begin : begin + PAGE]), show=show,
        tabs=[(key, name, len(groups[key])) for key, name in _SHOWN], means=_means(two),
        plot=await _plot(gateway, [two.after, two.before]), interval=_interval(two),
        first_page=_address(request, query) if begin else None,
        next_page=_address(request, {**query, "cursor": begin + PAGE}) if begin + PAGE < len(groups[show]) else None,
    )  # fmt: skip


async def comparison_row_page(request: Request) -> Response:
    """One row of two evaluations: its outputs and its traces side by side."""
    gateway, principal = await open_page(request)
    asked = read_query(request.query_params, {"with": plain_text, "row": read_offset, "repeat": read_offset})
    after = await seen_evaluation(gateway, principal, request.path_params["id"])
    before = await compared_with(gateway, principal, asked.get("with", ""))
    row = asked.get("row", 0)
    found = await rows_in_both(gateway, before, after, row)
    repeats = min(map(len, found))
    repeat = min(asked.get("repeat", 0), repeats - 1)
    old, new = found[0][repeat], found[1][repeat]
    sides = [await _side(gateway, "Before", before, old), await _side(gateway, "After", after, new)]
    names = {*(old.outputs or {}), *(new.outputs or {})}
    changed = {name for name in names if (old.outputs or {}).get(name) != (new.outputs or {}).get(name)}
    return page(
        request, "comparison_row.html", principal, title=f"Row {row} in two evaluations", before=before, after=after,
        row=row, repeat=repeat, repeats=repeats, sides=sides, changed=changed, inputs=new.inputs, labels=new.labels,
    )  # fmt: skip


ROUTES = (
    Route("/evaluations", evaluations_page, methods=["GET"]),
    Route("/evaluations/{id}", evaluation_page, methods=["GET"]),
    Route("/evaluations/{id}/compare", comparison_page, methods=["GET"]),
    Route("/evaluations/{id}/compare/row", comparison_row_page, methods=["GET"]),
)

#: The groups of a comparison's rows, by the name that the address has.
_SHOWN = (("", "All"), ("worse", "Worse"), ("better", "Better"), ("same", "Same"))


def _address(request: Request, query: Mapping[str, Any]) -> str:
    """The address of this page with another query."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    path: str = request.scope["path"]
    return path + ("?" + urlencode(given) if given else "")


def _tabs(counted: Progressed) -> list[tuple[str, str, int]]:
    figures = counted.figures
    return [
        ("", "All rows", figures.total), ("program_errors", "Program errors", figures.failed),
        ("metric_errors", "Metric errors", figures.unscored),
    ]  # fmt: skip


def _with_same_metric_first(others: Sequence[SeenEvaluation], metric: str) -> Sequence[SeenEvaluation]:
    return sorted(others, key=lambda each: each.metric != metric)


async def _plot(gateway: Gateway, sides: Sequence[SeenEvaluation]) -> Markup:
    """How the scores of one or two evaluations are distributed, the first in front."""
    counted = [(await progressed(gateway, [each]))[each.id].bars for each in sides]
    every = [bar for side in counted for bar in side]
    if not every:
        return Markup('<p class="faint">No score yet.</p>')
    low, high = min(bar.low for bar in every), max(bar.high for bar in every)
    counts = [_in_bars(side, low, high) for side in counted]
    return Markup(histogram_of_counts(counts, low, high))  # noqa: S704


def _in_bars(side: Sequence[BarCount], low: float, high: float) -> Mapping[int, int]:
    """The counts of a side in bars of a range that may be wider than its own."""
    counts: dict[int, int] = {}
    for each in side:
        middle = each.low + (each.bar + 0.5) * (each.high - each.low) / BARS
        bar = min(int((middle - low) / (high - low) * BARS), BARS - 1)
        counts[bar] = counts.get(bar, 0) + each.count
    return counts


def _means(two: TwoEvaluations) -> tuple[float | None, float | None]:
    if not two.rows:
        return None, None
    return sum(row.before for row in two.rows) / len(two.rows), sum(row.after for row in two.rows) / len(two.rows)


def _interval(two: TwoEvaluations) -> Markup:
    found = two.difference
    return Markup("" if found is None else interval_plot(found.low, found.mean, found.high))  # noqa: S704


async def _side(gateway: Gateway, name: str, found: SeenEvaluation, row: EvaluatedRow) -> Side:
    trail = await row.execution.audit_trail
    bars, left_out = waterfall(trail, datetime.now(UTC), is_final=row.execution.status.is_final)
    calls, no_calls = await calls_of(gateway, row.execution)
    hidden = left_out + max(len(bars) - MOST_BARS, 0)
    return Side(name, found.summary.version, row, bars[:MOST_BARS], hidden, calls, no_calls)
