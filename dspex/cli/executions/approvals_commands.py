"""``dspex approvals``, ``dspex approve`` and ``dspex reject``."""

from __future__ import annotations

import json

import click

from dspex.cli.known_names import require_known
from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.exit_codes import DONE, FAILED
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.shown.review_data import approval_data
from dspex.client.waits.approval import Approval
from dspex.errors import AlreadyDecided

__all__ = ["approvals", "approve", "reject"]

#: Arguments in the table are cut off after so many characters.
SHOWN_CHARACTERS = 80


@click.command()
@click.option("--program", shell_complete=program_names, help="Only calls of executions of this program.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, at most.")
@json_option
def approvals(program: str | None, limit: int, as_json: bool) -> None:
    """List the calls of tools that executions wait for until somebody decides.

    Example: dspex approvals --program refunds
    """
    with Client() as client:
        found = client.approvals(program=program, limit=limit)
        if not found:
            require_known(client, program=program)
    if as_json:
        echo_json([approval_data(each) for each in found])
        return
    if not found:
        echo("no execution waits for a decision")
        return
    print_table(
        console(),
        ("execution", "call", "program", "tool", "arguments", "since"),
        [
            (
                str(each.execution_id), each.call_id, each.program, each.tool, _shown(each),
                each.requested_at.isoformat(timespec="seconds"),
            )
            for each in found
        ],
    )  # fmt: skip


@click.command()
@click.argument("execution_id", metavar="ID")
@click.argument("call_id", metavar="CALL")
@click.option("--note", help="Why; it is stored with the decision.")
@click.option("--by", metavar="NAME", help="Who decides; by default this user of the machine.")
@json_option
def approve(execution_id: str, call_id: str, note: str | None, by: str | None, as_json: bool) -> int:
    """Let an execution make a call that it waits to make.

    Exit code 1 if somebody else decided first.

    Example: dspex approve 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e 5f1d2c3b4a596877-0 --note "checked the order"
    """
    return _decide(execution_id, call_id, note, by, approved=True, as_json=as_json)


@click.command()
@click.argument("execution_id", metavar="ID")
@click.argument("call_id", metavar="CALL")
@click.option("--note", help="Why; the model sees it in the place of the tool's result.")
@click.option("--by", metavar="NAME", help="Who decides; by default this user of the machine.")
@json_option
def reject(execution_id: str, call_id: str, note: str | None, by: str | None, as_json: bool) -> int:
    """Have an execution go on without a call that it waits to make.

    Exit code 1 if somebody else decided first.

    Example: dspex reject 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e 5f1d2c3b4a596877-0 --note "above the limit"
    """
    return _decide(execution_id, call_id, note, by, approved=False, as_json=as_json)


def _decide(execution_id: str, call_id: str, note: str | None, by: str | None, *, approved: bool, as_json: bool) -> int:
    row = {"execution_id": execution_id, "call_id": call_id, "approved": approved, "first": True}
    try:
        with Client() as client:
            decide = client.approve if approved else client.reject
            decide(execution_id, call_id, note=note, by=by)
    except AlreadyDecided as error:
        row |= {"approved": error.details["approved"], "first": False}
        if as_json:
            echo_json(row)
        else:
            echo(str(error), fg="red")
        return FAILED
    if as_json:
        echo_json(row)
    else:
        echo(f"{'approved' if approved else 'rejected'}: {execution_id} goes on")
    return DONE


def _shown(approval: Approval) -> str:
    """The arguments in a line."""
    given = approval.arguments
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
