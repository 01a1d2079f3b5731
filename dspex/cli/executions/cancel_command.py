"""``dspex cancel``."""

from __future__ import annotations

from typing import Any

import click

from dspex.cli.output.exit_codes import DONE, WRONG_USAGE
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.client.client import Client
from dspex.errors import ExecutionNotFound
from dspex.store.lifecycle.status import Status

__all__ = ["cancel"]


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--batch", "batch_id", metavar="ID", help="Cancel every unfinished execution of this batch.")
@json_option
def cancel(ids: tuple[str, ...], batch_id: str | None, as_json: bool) -> int:
    """Cancel executions: queued ones at once, running ones as soon as their worker sees the request.

    Exit code 1 if one of them had already completed or failed, 2 if one does not exist; the others are cancelled.

    \b
    Examples:
      dspex cancel 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e
      dspex cancel --batch 0193e0f2-5d0a-7c31-a1f4-000000000000
    """
    if bool(ids) == (batch_id is not None):
        raise click.UsageError("give execution ids, or --batch")
    if batch_id is not None:
        return _cancel_batch(batch_id, as_json)
    with Client() as client, ProgressBars() as bars:
        found = [_cancel(client, id) for id in bars.over("cancelling", ids)]
    if as_json:
        echo_json(found)
    for row in () if as_json else found:
        going = ", being cancelled" if row["cancelled"] and row["status"] != Status.CANCELLED else ""
        echo(f"{row['id']}  {row['status'] or 'not found'}{going}")
    return WRONG_USAGE if any(row["status"] is None for row in found) else int(not all(r["cancelled"] for r in found))


def _cancel(client: Client, id: str) -> dict[str, Any]:
    try:
        cancelled = client.cancel(id)
        return {"id": id, "cancelled": cancelled, "status": client.get(id).status}
    except ExecutionNotFound:
        return {"id": id, "cancelled": False, "status": None}


def _cancel_batch(id: str, as_json: bool) -> int:
    with Client() as client, ProgressBars() as bars, bars.phase("cancelling", None) as on_progress:
        count = client.batch(id).cancel(on_progress)
    if as_json:
        echo_json({"batch_id": id, "cancelled": count})
    else:
        echo(f"{count} executions cancelled; running ones end as soon as their workers see the request")
    return DONE
