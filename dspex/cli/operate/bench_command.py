"""``dspex bench``: measure the throughput of the deployment and find its bottleneck."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.client.async_client import AsyncClient
from dspex.errors import DspexError
from dspex.operations.bench import load
from dspex.operations.bench.bottleneck import Bottleneck, Observer, bottlenecks, model_share
from dspex.operations.bench.load import Floor, Shape
from dspex.program.program import Program
from dspex.signatures import signature

__all__ = ["bench"]

NAME = "dspex-bench"
#: Requests of each user: in a measured load, and in a trial for the largest number of users.
EACH, TRIAL_EACH = 50, 5
#: Requests per second of the steady load.
PER_SECOND = 10.0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The measurements of one load, its required minimums (floors), the bottlenecks, and the workers of this host."""

    what: str
    shape: Shape
    floors: Sequence[Floor]
    bottlenecks: Sequence[Bottleneck]
    workers: Mapping[int, Mapping[str, float]]

    @property
    def factor(self) -> float:
        """The margin over the closest floor; below 1 if a floor is not met."""
        return min(floor.factor for floor in self.floors)

    def as_data(self) -> dict[str, Any]:
        shape = self.shape
        return {
            "what": self.what,
            "users": shape.users,
            "requests": len(shape.samples),
            "seconds": shape.seconds,
            "per_second": shape.throughput,
            "mean_ms": shape.mean_ms,
            **{f"p{percent}_ms": shape.percentile_ms(percent) for percent in (50, 95, 99)},
            "error_rate": shape.error_rate,
            "queue_ms": shape.queue_ms,
            "execution_ms": shape.execution_ms,
            "floors": [{**asdict(floor), "met": floor.met} for floor in self.floors],
            "bound_by": [asdict(each) for each in self.bottlenecks],
            "workers": {str(pid): dict(seen) for pid, seen in self.workers.items()},
        }


@click.command()
@click.option("--users", default="1,5,10,20,50", show_default=True, metavar="N,…", help="Numbers of concurrent users.")
@click.option("--each", type=click.IntRange(1, 100_000), default=EACH, show_default=True, help="Requests of each user.")
@click.option("--seconds", type=NumberRange(0), default=30, show_default=True,
              help="Duration of a steady load of 10 requests per second; 0 skips it.")  # fmt: skip
@click.option(
    "--most/--no-most", default=True, show_default=True, help="Search for the largest number of users that is served."
)
@click.option("--model-ms", type=NumberRange(0), default=0, show_default=True,
              help="Latency of the simulated model.")  # fmt: skip
@click.option("--program", help="A deployed program, instead of the simulated one. Its model is called.")
@click.option(
    "--input", "inputs", multiple=True, metavar="JSON", help="Inputs for --program; several are used in turn."
)
@click.option("--yes", is_flag=True, help="Call the model without asking for confirmation.")
@json_option
def bench(
    users: str,
    each: int,
    seconds: float,
    most: bool,
    model_ms: float,
    program: str | None,
    inputs: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Put load on this deployment, and measure its throughput and its bottleneck.

    The command deploys a program named dspex-bench with a simulated model, and runs thousands of executions of it.
    They stay in the database until retention removes them. Each load has floors (required minimums); the last column
    of the table is the margin over the closest one. Exit code 1 if a floor is not met.

    Example: dspex bench --users 50,200 --model-ms 200
    """
    counts = _counts(users)
    if program is None and inputs:
        raise click.UsageError("--input needs --program")
    rows = [_row(text) for text in inputs]
    if program is not None:
        most = False
        _confirm(program, rows, sum(counts) * each + round(PER_SECOND * seconds), yes)
    screen = console(stderr=as_json)
    plan = _Plan(program or NAME, _inputs(rows), each, screen, _simulated(model_ms) if program is None else None)
    results, served = asyncio.run(plan.run(counts, seconds, most))
    if as_json:
        echo_json({"results": [result.as_data() for result in results], "most_users": served})
    else:
        _show(screen, results, served)
    if any(result.shape.error_rate for result in results) or not all(f.met for r in results for f in r.floors):
        raise click.exceptions.Exit(1)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The load to run; the ``simulated`` program is deployed first."""

    program: str
    inputs: Callable[[int], Mapping[str, Any]]
    each: int
    console: Console
    simulated: Program | None

    async def run(self, counts: Sequence[int], seconds: float, most: bool) -> tuple[list[LoadResult], int | None]:
        async with AsyncClient() as client:
            await asyncio.to_thread(client._client._session.check_schema)
            if not await client.workers():
                raise DspexError("no worker is alive: start one with `dspex worker`", code="no_worker")
            if self.simulated is not None:
                await asyncio.to_thread(client._client._session.deploy, self.simulated)
            await load.users(client, self.program, self.inputs, count=min(counts[0], 5), each=2)  # warm up
            results = [await self._users(client, count) for count in counts]
            if seconds:
                results.append(await self._steady(client, seconds))
            return results, await self._most(client) if most else None

    async def _users(self, client: AsyncClient, count: int) -> LoadResult:
        with self.console.status(f"{count} users"), Observer(client._client) as observer:
            shape = await load.users(client, self.program, self.inputs, count=count, each=self.each)
        return await self._result(client, f"{count} users", shape, list(load.floors(shape)), observer)

    async def _steady(self, client: AsyncClient, seconds: float) -> LoadResult:
        what = f"{PER_SECOND:g}/s for {seconds:g} s"
        with self.console.status(what), Observer(client._client) as observer:
            shape = await load.steady(client, self.program, self.inputs, per_second=PER_SECOND, seconds=seconds)
        floors = list(load.steady_floors(shape, round(PER_SECOND * seconds)))
        return await self._result(client, what, shape, floors, observer)

    async def _most(self, client: AsyncClient) -> int:
        async def trial(count: int) -> Shape:
            with self.console.status(f"the most users: {count}"):
                return await load.users(client, self.program, self.inputs, count=count, each=TRIAL_EACH)

        return await load.most_users(trial)

    async def _result(
        self, client: AsyncClient, what: str, shape: Shape, floors: Sequence[Floor], observer: Observer
    ) -> LoadResult:
        share = await asyncio.to_thread(model_share, client._client, shape)
        last = observer.looks[-1]
        workers = {pid: {"cpu": cpu, "rss_mb": last.worker_mb[pid]} for pid, cpu in last.worker_cpu.items()}
        return LoadResult(what, shape, floors, bottlenecks(observer.looks, shape, share), workers)


def _show(screen: Console, results: Sequence[LoadResult], served: int | None) -> None:
    columns = ("load", "results/s", "mean ms", "p50", "p95", "p99", "queued", "ran", "errors", "floors")
    print_table(screen, columns, map(_cells, results))
    if served is not None:
        screen.print(f"most users served at once: {served}" + (" (the largest number tried)" if served == 200 else ""))
    heaviest = max(results, key=lambda result: result.shape.users)
    for pid, seen in heaviest.workers.items():
        screen.print(f"worker {pid}: {seen['cpu']:.0%} of a core, {seen['rss_mb']:.0f} MB, under {heaviest.what}")
    for bottleneck in heaviest.bottlenecks:
        line = Text.assemble(
            (f"bottleneck: {bottleneck.what}", "bold"), f" under {heaviest.what}: {bottleneck.evidence}"
        )
        screen.print(line, soft_wrap=True)
        screen.print(f"       {bottleneck.fix}", style="dim", soft_wrap=True)


def _cells(result: LoadResult) -> tuple[str | Text, ...]:
    shape = result.shape
    times = (shape.mean_ms, *map(shape.percentile_ms, (50, 95, 99)), shape.queue_ms, shape.execution_ms)
    return (
        result.what, f"{shape.throughput:,.0f}" if shape.throughput >= 100 else f"{shape.throughput:.1f}",
        *(f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" for ms in times), f"{shape.error_rate:.1%}", _margin(result),
    )  # fmt: skip


def _margin(result: LoadResult) -> Text:
    missed = [floor.what for floor in result.floors if not floor.met]
    return Text(f"not: {', '.join(missed)}", "red") if missed else Text(f"met {result.factor:,.1f}×", "green")


def _counts(users: str) -> list[int]:
    try:
        counts = [int(part) for part in users.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1 or max(counts) > 10_000:
        raise click.UsageError(f"--users {users!r} is not a list of numbers from 1 to 10,000, as 1,5,10")
    return counts


def _row(given: str) -> dict[str, Any]:
    try:
        row = json.loads(given)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise click.UsageError(f"--input {given!r} is not a JSON object")
    return row


def _inputs(rows: Sequence[dict[str, Any]]) -> Callable[[int], Mapping[str, Any]]:
    return lambda number: rows[number % len(rows)] if rows else {"question": f"request {number}"}


def _confirm(program: str, rows: Sequence[dict[str, Any]], count: int, yes: bool) -> None:
    if not rows:
        raise click.UsageError(f'--program {program} needs inputs: --input \'{{"field": "value"}}\'')
    if not yes:
        click.confirm(f"This runs {count:,} executions of {program} with paid model calls. Continue?", abort=True)


def _simulated(model_ms: float) -> Program:
    options = {"sleep_ms": model_ms}
    return Program(NAME, signature("question -> answer"), adapter="scripted", module_options=options)
