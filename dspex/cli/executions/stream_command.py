"""``dspex stream``, and what ``dspex run --stream`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click

from dspex.cli.output.json_output import json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.client.follow import StreamEvent
from dspex.client.shown.event_data import event_data
from dspex.signatures import Signature

__all__ = ["following", "print_stream", "stream"]


@click.command()
@click.argument("id")
@click.option("--after", metavar="CURSOR", help="Continue after this event: the cursor that --json prints.")
@click.option(
    "--timeout",
    type=NumberRange(min=0),
    default=None,
    help="How many seconds to follow; the execution continues after it.",
)
@json_option
def stream(id: str, after: str | None, timeout: float | None, as_json: bool) -> None:
    """Follow an execution until it ends: its status, and its fields as the model writes them.

    Partial text is available if the execution was submitted with --stream.

    Example: dspex stream 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e
    """
    with Client() as client:
        execution = client.get(id)
        signature = client.program(execution.program, execution.version).signature
        print_stream(execution, signature, after=after, timeout=timeout, as_json=as_json)


def print_stream(
    execution: Execution, signature: Signature, *, after: str | None = None, timeout: float | None, as_json: bool
) -> None:
    """Print the events of an execution until it ends: fields to stdout, the rest to stderr.

    With ``as_json`` every event is a line on stdout. Raises the errors of :meth:`Execution.result`.
    """
    printed = partial(_print_json, signature=signature) if as_json else _Printer().print
    with following(execution):
        for event in execution.stream(after=after, timeout=timeout):
            printed(event)
            if event.error is not None:
                raise event.error
    if not as_json:
        echo(f"{execution.id}  {execution.refresh().metrics.execution_time_ms:.0f} ms", dim=True, err=True)


@contextmanager
def following(execution: Execution) -> Iterator[None]:
    """An interruption of the block prints that the execution continues, and the commands that follow and cancel it."""
    try:
        yield
    except KeyboardInterrupt:
        echo(
            f"\nthe execution continues: `dspex stream {execution.id}` follows it, `dspex cancel {execution.id}` "
            "cancels it",
            err=True,
        )
        raise


class _Printer:
    """Prints events for people. The line of a field stays open while the model writes it."""

    def __init__(self) -> None:
        self._open: str | None = None

    def print(self, event: StreamEvent) -> None:
        match event.kind:
            case "status":
                self._aside(f"{event.status}" + (f", attempt {event.attempt}" if event.attempt > 1 else ""))
            case "reset":
                self._aside("the model starts its answer again")
            case "partial":
                self._label(event.field)
                echo(event.text or "", nl=False)
            case "field":
                if self._open != event.field or event.validated:
                    self._end_line()
                    self._label(event.field)
                    value = event.value
                    echo(value if isinstance(value, str) else json.dumps(value, default=str), nl=False)
                self._end_line()

    def _label(self, field: str | None) -> None:
        if self._open != field:
            self._end_line()
            echo(f"{field}: ", bold=True, nl=False)
            self._open = field

    def _end_line(self) -> None:
        if self._open is not None:
            echo()
            self._open = None

    def _aside(self, text: str) -> None:
        self._end_line()
        echo(text, dim=True, err=True)


def _print_json(event: StreamEvent, signature: Signature) -> None:
    click.echo(json.dumps(event_data(event, signature), ensure_ascii=False))
