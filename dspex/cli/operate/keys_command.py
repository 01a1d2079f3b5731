"""``dspex keys``: keys for requests over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.text import Text

from dspex.cli.open_database import open_database
from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.cli.shell_completion import program_names
from dspex.errors import DspexError
from dspex.serve.access.access_keys import AccessKeys
from dspex.settings.web_settings import SCOPES
from dspex.store.operations.api_keys import ApiKey

__all__ = ["keys"]

_SPAN = re.compile(r"(\d{1,5})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


class SpanParameter(click.ParamType):  # type: ignore[type-arg]  # click before 8.5 has no argument there
    """A span of time: ``12h``, ``90d``, ``4w``."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if (found := _SPAN.fullmatch(value)) is None:
            self.fail(f"{value!r} is not a span of time; use 12h, 90d or 4w", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


@click.group()
def keys() -> None:
    """Create, list and revoke the keys that requests over HTTP need.

    Needs a user of Postgres that may change the schema, as `dspex migrate` does.

    \b
    Examples:
      dspex keys create web-shop --programs triage --per-minute 600 --tenant acme
      dspex keys revoke web-shop
    """


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    help="What it may do: submit and read if not given. Can be repeated.",
)
@click.option(
    "--programs", metavar="NAME,…", shell_complete=program_names, help="The programs that it may use. Not given: all."
)
@click.option("--tenant", help="Whose executions it submits and sees. Not given: it sees all.")
@click.option("--per-minute", type=click.IntRange(1), help="The most submits in a minute, of all keys of its tenant.")
@click.option(
    "--budget-usd", type=NumberRange(0, min_open=True), metavar="USD",
    help="What the tenant's executions may cost in a calendar month before the key submits no more.",
)  # fmt: skip
@click.option(
    "--expires", type=SpanParameter(), metavar="SPAN", help="When it ends: 12h, 90d, 4w. Not given: when it is revoked."
)
@json_option
def create(
    name: str, scopes: tuple[str, ...], programs: str | None, tenant: str | None, per_minute: int | None,
    budget_usd: float | None, expires: timedelta | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a key and print it. Only its hash is stored, so it cannot be shown again.

    Example: dspex keys create web-shop --programs triage --per-minute 600 --tenant acme --expires 90d
    """
    names = None if programs is None else [each.strip() for each in programs.split(",") if each.strip()]
    with _opened() as opened:
        made, text = opened.create(
            name, scopes=scopes or ("submit", "read"), programs=names, tenant=tenant, per_minute=per_minute,
            budget_usd=budget_usd, expires_in=expires,
        )  # fmt: skip
    if as_json:
        echo_json({**_data(made), "key": text})
        return
    echo(text)
    echo(f"{made.name}: {', '.join(made.scopes)}. Store the key now: it cannot be shown again.", err=True)


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the keys, the newest first.

    Example: dspex keys list
    """
    with _opened() as opened:
        found = opened.all()
    if as_json:
        echo_json([_data(each) for each in found])
    elif not found:
        echo("no key was made: `dspex keys create NAME` makes one")
    else:
        print_table(
            console(), ("name", "scopes", "programs", "tenant", "a minute", "a month", "state"), map(_row, found)
        )


@keys.command()
@click.argument("name")
@json_option
def revoke(name: str, as_json: bool) -> None:
    """End a key. Requests with it are refused within some seconds.

    Example: dspex keys revoke web-shop
    """
    with _opened() as opened:
        if not opened.revoke(name):
            raise DspexError(f"no key {name!r} is in force: `dspex keys list` shows them", code="key_not_found")
    if as_json:
        echo_json({"name": name, "revoked": True})
    else:
        echo(f"{name} is revoked")


@contextmanager
def _opened() -> Iterator[AccessKeys]:
    with open_database() as database:
        yield AccessKeys(database)


def _data(key: ApiKey) -> dict[str, Any]:
    return {**asdict(key), "state": _state(key)}


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "in force"


def _row(key: ApiKey) -> tuple[str | Text, ...]:
    state = _state(key)
    until = f" until {key.expires_at:%Y-%m-%d %H:%M}" if state == "in force" and key.expires_at else ""
    return (
        key.name, " ".join(key.scopes), "all" if key.programs is None else " ".join(key.programs), key.tenant or "",
        "" if key.per_minute is None else str(key.per_minute), "" if key.budget_usd is None else f"${key.budget_usd:g}",
        Text(state + until, style="" if state == "in force" else "red"),
    )  # fmt: skip
