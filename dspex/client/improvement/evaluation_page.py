"""An evaluation, or two of them, as a self-contained HTML file with plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dspex.client.improvement.evaluation import Evaluation, EvaluationRow
from dspex.client.improvement.score_comparison import RowDifference, ScoreComparison
from dspex.client.improvement.score_plots import histogram
from dspex.operations.report.dollars import dollars
from dspex.operations.report.html_page import STYLE
from dspex.signatures.text_order import escaped
from dspex.store.lifecycle.status import Status

__all__ = ["comparison_page", "document", "evaluation_page", "table"]

#: The most rows of a table.
MOST_ROWS = 500
#: The most characters of a value in a table.
VALUE_MOST = 300

_OWN_STYLE = """
td { vertical-align: top } td.text, th.text { text-align: left }
td.text { white-space: pre-wrap; max-width: 28rem; min-width: 7rem }
.worse { color: var(--bad) } .better { color: var(--good) } .verdict { font-size: 1.05rem; color: var(--ink) }
rect.first { fill: var(--plain) } rect.second { fill: var(--other) }
.line { fill: none; stroke: var(--good); stroke-width: 1.5 }
"""


def evaluation_page(evaluation: Evaluation) -> str:
    """The evaluation as an HTML document: its score, plots, failures, and rows, those with the lowest score first."""
    rows = list(evaluation.rows())
    figures, progress = evaluation.figures, evaluation.progress
    title = f"{evaluation.program} {evaluation.version} on {evaluation.dataset.name}"
    facts = {
        "score": "–" if figures.score is None else f"{figures.score:.3f}",
        "scored": f"{figures.scored:,} of {figures.total:,}",
        "failed": f"{figures.failed:,}",
        "without a score": f"{figures.unscored + figures.unpaid:,}",
        "cost": dollars(progress.cost_usd, progress.unpriced),
    }
    plots = [
        ("Scores", histogram([_scores(rows)])),
        ("Run time of an execution", histogram([[row.execution_time_ms for row in rows]], _milliseconds)),
    ]
    lowest = sorted(rows, key=lambda row: (row.score is not None, row.score or 0.0, row.index))[:MOST_ROWS]
    rows_table = table(("row", "score", "inputs", "labels", "outputs", "notes"), map(_row_cells, lowest))
    note = f"Metric {evaluation.metric}; dataset version {evaluation.dataset.version}; evaluation {evaluation.id}."
    return document(title, note, facts, plots, _failures(rows) + f"<h2>Rows</h2>{rows_table}")


def comparison_page(comparison: ScoreComparison) -> str:
    """The comparison as an HTML document: the result in words, plots, and rows, those that got worse first."""
    before, after = comparison.before, comparison.after
    title = f"{after.program} {after.version} beside {before.version}"
    found = comparison.difference
    facts = {
        "before": "–" if before.score is None else f"{before.score:.3f}",
        "after": "–" if after.score is None else f"{after.score:.3f}",
        "better": f"{found.better if found else 0:,}",
        "worse": f"{found.worse if found else 0:,}",
        "left out": f"{comparison.left_out:,}",
    }
    sides = [[row.score_before for row in comparison.rows], [row.score_after for row in comparison.rows]]
    plots = [
        (f"Scores: {before.version} (grey), {after.version}", histogram(list(reversed(sides)))),
        ("Differences by row", histogram([[row.difference for row in comparison.rows]])),
    ]
    changed = [row for row in comparison.rows if row.difference or row.fields][:MOST_ROWS]
    columns = ("row", "difference", "inputs", "labels", "outputs that differ")
    rows_table = table(columns, map(_difference_cells, changed))
    return document(title, comparison.sentence, facts, plots, f"<h2>Rows that changed</h2>{rows_table}")


def document(title: str, note: str, facts: Mapping[str, str], plots: Sequence[tuple[str, str]], body: str) -> str:
    """An HTML document: a sentence, facts by name, plots by title, and what follows."""
    shown = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in facts.items())
    drawn = "".join(f"<div><h2>{escaped(name)}</h2>{plot}</div>" for name, plot in plots)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escaped(title)}</title><style>{STYLE}{_OWN_STYLE}</style></head><body>
<h1>{escaped(title)}</h1><p class="verdict">{escaped(note)}</p>
<dl>{shown}</dl>
<div class="plots">{drawn}</div>
{body}
</body></html>
"""


def _failures(rows: Sequence[EvaluationRow]) -> str:
    """The errors of the program and of the metric, with how often each came."""
    causes = Counter(
        [("program", row.error.code) for row in rows if row.status is Status.FAILED and row.error is not None]
        + [("metric", str(row.metric_error.get("code"))) for row in rows if row.metric_error is not None]
    )
    if not causes:
        return ""
    cells = ([whose, code, f"{count:,}"] for (whose, code), count in causes.most_common())
    return f"<h2>Errors</h2>{table(('of', 'error', 'executions'), cells)}"


def _row_cells(row: EvaluationRow) -> list[str]:
    score = "–" if row.score is None else f"{row.score:.3f}"
    why = row.error.code if row.error is not None else str((row.metric_error or {}).get("message", ""))
    place = f"{row.index}" + (f".{row.repeat}" if row.repeat else "")
    return [place, score, _text(row.inputs), _text(row.labels), _text(row.outputs), row.feedback or why]


def _difference_cells(row: RowDifference) -> list[str]:
    fields = "\n".join(f"{name}: {_short(old)} → {_short(new)}" for name, (old, new) in row.fields.items())
    return [f"{row.index}", f"{row.difference:+.3f}", _text(row.inputs), _text(row.labels), fields]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts as HTML."""
    head = "".join(f"<th{_kind(place, column)}>{escaped(column)}</th>" for place, column in enumerate(columns))
    cells = ("".join(f"<td{_kind(place, cell)}>{escaped(cell)}</td>" for place, cell in enumerate(row))
             for row in rows)  # fmt: skip
    body = "".join(f"<tr>{each}</tr>" for each in cells)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _kind(place: int, cell: str) -> str:
    if place == 1 and cell[:1] in "+-":
        return ' class="worse"' if cell.startswith("-") else ' class="better"'
    return ' class="text"' if place > 1 else ""


def _text(values: Mapping[str, Any] | None) -> str:
    return "" if values is None else "\n".join(f"{name}: {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= VALUE_MOST else f"{text[: VALUE_MOST - 1]}…"


def _scores(rows: Sequence[EvaluationRow]) -> list[float]:
    return [row.score for row in rows if row.score is not None]


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms"
