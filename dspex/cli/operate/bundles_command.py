"""``dspex bundles``."""

from __future__ import annotations

from typing import Any

import click

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.client.client import Client
from dspex.client.waits.bundle import Bundle
from dspex.operations.report.dollars import dollars

__all__ = ["bundles"]


@click.command()
@click.option("--open", "is_open", is_flag=True, help="Only bundles that have not ended.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, at most.")
@json_option
def bundles(is_open: bool, limit: int, as_json: bool) -> None:
    """List the bundles of requests at providers' batch APIs, the newest first, with their cost and what they saved.

    Example: dspex bundles --open
    """
    with Client() as client:
        found = client.bundles(ended=not is_open, limit=limit)
    if as_json:
        echo_json([_data(each) for each in found])
        return
    if not found:
        echo("no bundles")
        return
    print_table(
        console(),
        ("id", "model", "state", "at the provider", "requests", "answered", "failed", "cost", "saved"),
        [
            (
                str(each.id), each.model, each.state, each.provider_state or "", str(each.requests), str(each.answered),
                str(each.failed), _dollars(each, each.cost_usd), _dollars(each, each.list_cost_usd - each.cost_usd),
            )
            for each in found
        ],
    )  # fmt: skip
    for each in found:
        if each.trouble:
            echo(f"{each.id}: {each.trouble}", fg="red")


def _dollars(bundle: Bundle, amount: float) -> str:
    """An amount as text; unknown where no answer of the bundle has a price."""
    return dollars(max(amount, 0), unpriced=0 if bundle.cost_usd else bundle.answered)


def _data(bundle: Bundle) -> dict[str, Any]:
    named = {name: getattr(bundle, name) for name in bundle.__slots__}
    times = {name: named[name] and named[name].isoformat() for name in ("created_at", "expires_at", "ended_at")}
    return {**named, **times, "id": str(bundle.id)}
