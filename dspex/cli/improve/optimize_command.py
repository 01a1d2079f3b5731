"""``dspex optimize``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.cli.output.selection_options import by_name
from dspex.cli.output.text_file import write_text
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.improvement.optimization import OPTIMIZERS, TriedVersion
from dspex.client.improvement.optimization_page import optimization_page
from dspex.operations.report.dollars import dollars

__all__ = ["optimize"]


@click.command()
@click.argument("name", shell_complete=program_names)
@click.argument("trainset")
@click.option("--valset", metavar="DATASET", help="A dataset to choose the best candidate by.")
@click.option("--metric", required=True, help="exact, contains, numeric, f1, or package.module:function.")
@click.option(
    "--optimizer", default="gepa", show_default=True, help=f"{', '.join(OPTIMIZERS)}, or package.module:factory."
)
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An argument of the optimiser, as JSON.")
@click.option("--reflection", metavar="MODEL", help="The model that is asked for new instructions; the program's own.")
@click.option("--budget", type=NumberRange(0, min_open=True), metavar="USD", help="What all calls may cost.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what the optimiser draws by chance.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the end; it goes on without.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots to an .html file."
)
@json_option
def optimize(
    name: str, trainset: str, valset: str | None, metric: str, optimizer: str, options: tuple[str, ...],
    reflection: str | None, budget: float | None, seed: int, wait: bool, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Have a worker look for a better state of program NAME with an optimiser of DSPy, on dataset TRAINSET. The best
    version is deployed, and not the current one: `dspex promote` makes it so.

    Example: dspex optimize triage tickets --metric exact --optimizer bootstrap --budget 5
    """
    with Client() as client:
        job = client.optimize(
            name, trainset=trainset, valset=valset, metric=metric, optimizer=optimizer, budget_usd=budget, seed=seed,
            options=by_name(map(_option, options), "--option"),
            models=None if reflection is None else {"reflection": reflection},
        )  # fmt: skip
        echo(f"optimisation {job.id}", dim=True, err=True)
        if not wait:
            return
        result = job.result()
        candidates = job.candidates()
        if output is not None:
            write_text(output, optimization_page(job))
        if as_json:
            echo_json({"id": job.id, "version": result.version, "score": result.score, "ended": result.ended,
                       "unrepeated": result.unrepeated, "candidates": list(map(asdict, candidates))})  # fmt: skip
            return
        print_table(console(), ("version", "score", "executions", "failed", "cost"), map(_row, candidates))
        if result.unrepeated:
            echo(f"{result.unrepeated} executions of earlier attempts were not asked for again: does the optimiser do "
                 "the same again?", err=True)  # fmt: skip
        echo(f"best: {result.version}, score {_score(result.score)} ({result.ended}); `dspex promote {name} "
             f"{result.version}` makes it the current version", bold=True)  # fmt: skip


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise click.UsageError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def _row(each: TriedVersion) -> tuple[str, ...]:
    cost = dollars(each.cost_usd, each.unpriced)
    return each.version, _score(each.score), f"{each.executions:,}", f"{each.failed:,}", cost


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.4f}"
