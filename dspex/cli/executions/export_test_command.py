"""``dspex export-test``."""

from __future__ import annotations

import click

from dspex.cli.output.plain_text import echo
from dspex.client.client import Client
from dspex.errors import DspexError
from dspex.store.lifecycle.status import Status
from dspex.testing.recorded import exported_test, recorded_execution

__all__ = ["export_test"]


@click.command("export-test")
@click.argument("id")
def export_test(id: str) -> None:
    """Print a test for pytest that runs an execution again: its program, its inputs, and the answers that it got.

    The model is a double that gives the recorded answers, so the test costs nothing. Secret values are "<secret>". The
    test needs the fixtures of dspex.testing: pip install "dspex[testing]".

    \b
    Examples:
      dspex export-test 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e > tests/test_refund.py
    """
    with Client() as client:
        execution = client.get(id)
        if execution.status not in (Status.COMPLETED, Status.FAILED):
            raise DspexError(f"execution {execution.id} is {execution.status}: a test needs its result or its failure")
        echo(exported_test(recorded_execution(client, execution)), nl=False)
