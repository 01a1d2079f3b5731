"""``dspex health``."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dspex.cli.operate.component_details import DETAILS
from dspex.cli.output.console_tables import console
from dspex.cli.output.exit_codes import DONE, FAILED, UNREACHABLE
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.client.client import Client
from dspex.operations.health.conditions import Component, Condition, HealthReport

__all__ = ["health"]

STYLES = {
    Condition.HEALTHY: "green",
    Condition.DEGRADED: "yellow",
    Condition.UNHEALTHY: "bold red",
    Condition.UNKNOWN: "magenta",
}


@click.command()
@json_option
@click.option("--watch", is_flag=True, help="Repeat until Ctrl-C.")
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=NumberRange(0.5, 86_400),
    help="Seconds between checks, for --watch.",
)
def health(as_json: bool, watch: bool, interval: float) -> int:
    """Show the health of every component, since when, and how to fix problems.

    Exit codes: 0 everything is healthy, 1 a component is not, 3 Postgres or Redis is unreachable.

    Example: dspex health --watch
    """
    with Client() as client:
        if watch:
            return _watch(client, interval, as_json=as_json)
        report = client.health()
    if as_json:
        echo_json(report.as_dict())
    else:
        console().print(_drawn(report))
    return _exit_code(report)


def _watch(client: Client, interval: float, *, as_json: bool) -> int:
    report = client.health()
    try:
        if as_json:
            while True:
                click.echo(json.dumps(report.as_dict()))  # one line for each report
                time.sleep(interval)
                report = client.health()
        with Live(_drawn(report), console=console(), auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                report = client.health()
                live.update(_drawn(report), refresh=True)
    except KeyboardInterrupt:
        return _exit_code(report)


def _exit_code(report: HealthReport) -> int:
    if report.unreachable:
        return UNREACHABLE
    return DONE if report.healthy else FAILED


def _drawn(report: HealthReport) -> Group:
    head = Text.assemble(
        (str(report.overall), STYLES[report.overall]),
        f"  {report.checked_at:%Y-%m-%d %H:%M:%S} UTC, dspex {report.version}",
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("component", "status", "for", "took"):
        table.add_column(column, no_wrap=True, justify="right" if column == "took" else "left")
    table.add_column("details", overflow="fold")
    for name, component in report.components.items():
        table.add_row(
            name,
            Text(str(component.status), style=STYLES[component.status]),
            _ago(component.since),
            f"{component.latency_ms:.0f} ms",
            _details(component, name),
        )
    return Group(head, "", table, "", _figures(report))


def _details(component: Component, name: str) -> Text:
    """The details of a component in words, and how to fix a problem."""
    details = component.details
    words = DETAILS.get(name.partition(" ")[0])
    text = Text(str(details.get("error") or (words(details) if words else "")))
    if component.fix and component.status is not Condition.HEALTHY:
        text.append(f"\n→ {component.fix}", style="bold")
    return text


def _figures(report: HealthReport) -> Text:
    labels = {
        "signature_compilation_ms": "compiling a signature {:.1f} ms",
        "type_validation_ms": "validating {:.2f} ms",
        "adapter_call_ms": "an adapter call {:.0f} ms",
        "execution_ms": "an execution {:.0f} ms",
    }
    words = [text.format(value) for name, text in labels.items() if (value := report.performance.get(name)) is not None]
    used = report.resources
    if used:
        memory = used["memory_bytes"] / 2**20
        words.append(f"workers: {used['process_count']:.0f} processes, {memory:.0f} MiB, {used['cpu']:.2f} cores")
    return Text(" · ".join(words), style="dim")


def _ago(since: datetime) -> str:
    seconds = max((datetime.now(UTC) - since).total_seconds(), 0)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
