"""``dspex adapters``."""

from __future__ import annotations

from typing import Any

import click

from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.program.adapters import AdapterInfo, adapters, unloadable

__all__ = ["adapters_command"]


@click.command("adapters")
@json_option
def adapters_command(as_json: bool) -> None:
    """List the adapters that can host programs, their capabilities, and whether they can be loaded here.

    Example: dspex adapters
    """
    rows = [_described(info) for info in adapters().values()]
    if as_json:
        broken = [{"name": name, "loadable": False, "error": why} for name, why in unloadable().items()]
        echo_json([*rows, *broken])
        return
    for row in rows:
        _show(row)
    for name, why in unloadable().items():
        echo(f"{name} cannot be loaded: {why}", fg="red", err=True)


def _described(info: AdapterInfo) -> dict[str, Any]:
    able = info.capabilities
    return {
        "name": info.name,
        "description": info.description,
        "implementation": info.implementation,
        "modules": sorted(able.modules),
        "custom_modules": able.custom_modules,
        "options": None if able.options is None else sorted(able.options),
        "calls_models": able.calls_models,
        "supports_streaming": able.supports_streaming,
        "supports_functions": able.supports_functions,
        "loadable": not info.missing,
        "missing": list(info.missing),
        "install": info.install or None,
    }


def _show(row: dict[str, Any]) -> None:
    echo(row["name"], bold=True, nl=False)
    if row["loadable"]:
        echo("  available", fg="green")
    else:
        fix = f": pip install '{row['install']}'" if row["install"] else ""
        echo(f"  cannot be loaded here, {', '.join(row['missing'])} is missing{fix}", fg="yellow")
    echo(f"  {row['description']}")
    words = {"calls_models": "model calls", "supports_streaming": "streaming", "supports_functions": "functions"}
    able = ", ".join(word for name, word in words.items() if row[name])
    own = ", and custom modules" if row["custom_modules"] else ""
    echo(f"  modules: {', '.join(row['modules'])}{own}")
    if able:
        echo(f"  capabilities: {able}")
    if row["options"] != []:
        echo(f"  options: {', '.join(row['options'] or ['as the module'])}")
