"""``dspex list``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click
from rich.text import Text

from dspex.cli.known_names import require_known
from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.failure_causes import causes_of, causes_text
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.selection_options import by_name, error_option, internal_option, metadata_option, tenant_option
from dspex.cli.output.status_styles import STATUS_STYLES
from dspex.cli.output.time_options import since_option
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.client.shown.execution_data import execution_data
from dspex.store.lifecycle.status import Status

__all__ = ["list_command"]

COLUMNS = ("id", "program", "status", "try", "submitted", "took", "cause")


@click.command("list")
@click.option("--program", shell_complete=program_names, help="Only executions of this program.")
@click.option(
    "--status",
    type=click.Choice([s.value for s in Status]),
    help="Only executions with this status; `failed` are the dead letters.",
)
@since_option
@click.option("--batch", metavar="ID", help="Only executions of this batch.")
@tenant_option
@error_option
@metadata_option
@internal_option
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The largest number of executions."
)
@json_option
def list_command(
    program: str | None, status: str | None, since: datetime | None, batch: str | None, tenant: str | None,
    error: str | None, members: Sequence[tuple[str, str]], internal: bool, limit: int, as_json: bool,
) -> None:  # fmt: skip
    """List executions, newest first, and count the listed failures by cause.

    The cause is the code of the error, and of an execution whose attempts are spent, the code of the last attempt's
    error.

    \b
    Examples:
      dspex list --status failed --since 2h
      dspex list --program simple_qa --limit 1000 --json
      dspex list --tenant acme --status failed
      dspex list --error rate_limited --metadata customer=42
    """
    with Client() as client:
        found = client.list(
            program=program, status=status, since=since, batch=batch, tenant=tenant, error=error,
            metadata=by_name(members, "--metadata"), internal=internal, limit=limit,
        )  # fmt: skip
        if not found:
            require_known(client, program=program, batch=batch)
        if as_json:
            echo_json([execution_data(execution) for execution in found])
            return
        if not found:
            echo("no executions")
            return
        print_table(console(), COLUMNS, map(_row, found), optional=("try", "took", "submitted"))
        if causes := causes_of(found):
            echo(f"failed, of those listed: {causes_text(causes)}", fg="red")
        if paused := client.paused():
            for name, why in paused.items():
                echo(f"paused: {name} ({why}): `dspex resume {name}`", fg="yellow", err=True)


def _row(execution: Execution) -> tuple[str | Text, ...]:
    status = execution.status
    return (
        str(execution.id),
        execution.program,
        Text(status, style=STATUS_STYLES[status]),
        str(execution.attempts),
        _time(execution.created_at),
        f"{execution.metrics.execution_time_ms:.0f} ms" if status.is_final else "",
        execution.cause_code or "",
    )


def _time(at: datetime) -> str:
    today = at.date() == datetime.now(UTC).date()
    return f"{at:%H:%M:%S}" if today else f"{at:%Y-%m-%d}"
