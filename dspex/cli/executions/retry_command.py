"""``dspex retry``."""

from __future__ import annotations

import click

from dspex.cli.known_names import require_known
from dspex.cli.output.exit_codes import DONE, exit_code
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.errors import DspexError, ExecutionNotFound, TransitionRefused

__all__ = ["retry"]


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--failed", is_flag=True, help="Retry every failed execution (the dead letters).")
@click.option("--batch", metavar="ID", help="Retry every failed execution of this batch.")
@click.option(
    "--program", shell_complete=program_names, help="With --failed or --batch: only executions of this program."
)
@click.option("--error", metavar="CODE", help="With --failed or --batch: only those with this error code or cause.")
@json_option
def retry(
    ids: tuple[str, ...], failed: bool, batch: str | None, program: str | None, error: str | None, as_json: bool
) -> int:
    """Queue failed or cancelled executions again, with new attempts. Paid model calls are replayed.

    Exit code 1 if one of them is neither failed nor cancelled, 2 if one does not exist; the others are queued.

    \b
    Examples:
      dspex retry 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e
      dspex retry --failed --program simple_qa
      dspex retry --batch 0193e0f2-5d0a-7c31-a1f4-3b0f00000000 --error rate_limited
    """
    many = failed or batch is not None
    if many == bool(ids) or ((program or error) and not many):
        raise click.UsageError("give execution ids, --failed or --batch (optionally with --program and --error)")
    with Client() as client, ProgressBars() as bars:
        if many:
            require_known(client, batch=batch)
            with bars.phase("queueing", None) as on_progress:
                count = client.retry_failed(program, batch=batch, error=error, on_progress=on_progress)
            refused: list[DspexError] = []
        else:
            refused = [refusal for id in ids if (refusal := _retry(client, id))]
            count = len(ids) - len(refused)
    if as_json:
        echo_json({"retried": count, "refused": [refusal.as_dict() for refusal in refused]})
    else:
        echo(f"{count} queued again")
        for refusal in refused:
            echo(f"{refusal.code}: {refusal}", err=True)
    return max(map(exit_code, refused), default=DONE)


def _retry(client: Client, id: str) -> DspexError | None:
    try:
        client.retry(id)
    except (ExecutionNotFound, TransitionRefused) as error:
        return error
    return None
