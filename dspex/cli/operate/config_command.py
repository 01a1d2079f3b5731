"""``dspex config``: the settings in force."""

from __future__ import annotations

from typing import Any

import click
from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.one_line import one_line
from dspex.embedded import read_stack
from dspex.settings import Settings, variable

__all__ = ["config"]


@click.command()
@click.option("--set", "set_only", is_flag=True, help="Only settings that are not defaults.")
@json_option
def config(set_only: bool, as_json: bool) -> None:
    """Show every setting, its value and its source. Secrets and passwords in URLs are never shown.

    Invalid settings are reported together, with exit code 2. See docs/reference/settings.md for their meaning.

    Example: dspex config --set
    """
    settings = Settings.load()
    rows = [row for row in _rows(settings) if not (set_only and row["from"] == "default")]
    warnings = settings.warnings()
    if as_json:
        echo_json({"settings": rows, "warnings": warnings, "backends": _backends(settings)})
        return
    out = console()
    if rows:
        cells = [(row["variable"], row["from"], _shown(row["value"])) for row in rows]
        print_table(out, ("variable", "from", "value"), cells)
        out.print()
    out.print(f"Profile {settings.env}; Postgres and Redis are {_backends(settings)}.", soft_wrap=True)
    for warning in warnings:
        out.print(f"[yellow]warning[/]: {warning}", soft_wrap=True)


def _rows(settings: Settings) -> list[dict[str, Any]]:
    origins = settings.origins
    return [
        {"variable": variable(name), "value": _value(getattr(settings, name)), "from": origins[name]}
        for _, names in settings.sections()
        for name in names
    ]


def _value(value: Any) -> Any:
    return str(value) if isinstance(value, SecretStr) else to_jsonable_python(value)


def _shown(value: Any) -> str:
    return "-" if value is None else one_line(value)


def _backends(settings: Settings) -> str:
    if settings.database_url is not None:
        return "at the configured URLs"
    running = "running" if read_stack(settings.home) is not None else "not running"
    return f"in the embedded stack at {settings.home}, which is {running}"
