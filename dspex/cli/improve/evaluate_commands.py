"""``dspex evaluate`` and ``dspex compare``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.exit_codes import DONE, FAILED
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.cli.output.text_file import write_text
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.improvement.evaluation import Evaluation
from dspex.client.improvement.evaluation_page import comparison_page, evaluation_page
from dspex.client.improvement.score_comparison import RowDifference
from dspex.operations.report.dollars import dollars

__all__ = ["compare", "evaluate"]

#: Rows of a comparison that are printed.
SHOWN_ROWS = 20
#: Rows without a score that are printed with the error of the metric.
SHOWN_ERRORS = 3

_page = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots to an .html file."
)


@click.command()
@click.argument("name", shell_complete=program_names)
@click.argument("dataset")
@click.option("--metric", required=True, help="exact, contains, numeric, f1, or package.module:function.")
@click.option("--version", metavar="VERSION", help="A version or an alias of the program, in place of the current one.")
@click.option("--repeats", type=click.IntRange(1, 100), default=1, show_default=True, help="Executions of each row.")
@click.option("--budget", type=NumberRange(0, min_open=True), metavar="USD", help="What model calls may cost.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the end; it goes on without.")
@_page
@json_option
def evaluate(
    name: str, dataset: str, metric: str, version: str | None, repeats: int, budget: float | None, wait: bool,
    output: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Execute program NAME for each row of DATASET, and score its outputs with a metric that the workers run.

    \b
    Examples:
      dspex evaluate triage tickets --metric exact
      dspex evaluate triage tickets --metric support_desk.metrics:routed --budget 5 -o page.html
    """
    with Client() as client:
        found = client.evaluate(name, dataset, metric=metric, version=version, repeats=repeats, budget_usd=budget)
        echo(f"evaluation {found.id}: {len(found):,} executions", dim=True, err=True)
        if wait:
            with ProgressBars() as bars, bars.phase("evaluated", len(found)) as on_progress:
                found.wait(on_progress=on_progress)
        if output is not None:
            write_text(output, evaluation_page(found))
        figures = found.figures
        if as_json:
            echo_json(_data(found))
        else:
            score = "no score" if figures.score is None else f"score {figures.score:.4f}"
            echo(score if wait or figures.score is not None else "no score yet", bold=True)
            progress = found.progress
            cost = dollars(progress.cost_usd, progress.unpriced)
            echo(f"{figures.scored:,} scored, {figures.failed:,} failed (0), {figures.unscored:,} without a score, "
                 f"{figures.unpaid:,} beyond the budget, cost {cost}")  # fmt: skip
            for line in _metric_errors(found) if figures.unscored else ():
                echo(line)
        return DONE if not wait or figures.is_complete else FAILED


@click.command()
@click.argument("before")
@click.argument("after")
@_page
@json_option
def compare(before: str, after: str, output: Path | None, as_json: bool) -> None:
    """Compare two evaluations on the same dataset, given by their ids: the rows that got worse first, and whether the
    difference is more than noise.

    Example: dspex compare 01993c1e-0000-7000-8000-000000000000 01993c2a-0000-7000-8000-000000000000 -o page.html
    """
    with Client() as client:
        found = client.evaluation(after).compare(client.evaluation(before))
        if output is not None:
            write_text(output, comparison_page(found))
        if as_json:
            difference = found.difference
            echo_json(
                {
                    "verdict": found.verdict,
                    "sentence": found.sentence,
                    "difference": None if difference is None else asdict(difference),
                    "left_out": found.left_out,
                    "rows": [_row_data(row) for row in found.rows if row.difference or row.fields],
                }
            )
            return
        worse = found.regressions[:SHOWN_ROWS]
        if worse:
            print_table(console(), ("row", "before", "after", "outputs that differ"), map(_row, worse))
        echo(found.sentence, bold=True)


def _metric_errors(found: Evaluation) -> Iterator[str]:
    """Why the metric gave no score for some of the rows."""
    errors = ((row.index, row.metric_error) for row in found.rows() if row.metric_error is not None)
    for index, error in islice(errors, SHOWN_ERRORS):
        yield f"row {index}: {error['code']}: {error['message']}"


def _row(row: RowDifference) -> tuple[str, ...]:
    return (
        str(row.index),
        f"{row.score_before:.3f}",
        f"{row.score_after:.3f}",
        json.dumps({name: list(values) for name, values in row.fields.items()}, ensure_ascii=False, default=str),
    )


def _row_data(row: RowDifference) -> dict[str, Any]:
    return {
        "index": row.index,
        "score_before": row.score_before,
        "score_after": row.score_after,
        "fields": {name: list(values) for name, values in row.fields.items()},
    }


def _data(found: Evaluation) -> dict[str, Any]:
    figures, progress = found.figures, found.progress
    return {
        "id": found.id,
        "program": found.program,
        "version": found.version,
        "dataset": found.dataset.name,
        "dataset_version": found.dataset.version,
        "metric": found.metric,
        **asdict(figures),
        "cost_usd": progress.cost_usd,
        "unpriced": progress.unpriced,
    }
