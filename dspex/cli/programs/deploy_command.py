"""``dspex deploy``."""

from __future__ import annotations

import json
import runpy
import traceback
from pathlib import Path

import click

from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.client.client import Client
from dspex.errors import DspexError
from dspex.program.program import Program

__all__ = ["deploy"]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def deploy(file: Path, as_json: bool) -> None:
    """Deploy the programs of FILE: every dspex.Program at the top level of a Python file, or every entry of a JSON
    file ({"name": {"signature": …, "model": …}, …}, with the fields of dspex.Program).

    Example: dspex deploy programs.py
    """
    programs = _from_json(file) if file.suffix == ".json" else _from_python(file)
    if not programs:
        raise click.UsageError(f"{file} defines no dspex.Program at its top level")
    with Client() as client:
        deployed = [client.deploy(program) for program in programs]
    if as_json:
        echo_json(
            [{"name": d.program.name, "version": d.program.version, "deployed_at": d.deployed_at} for d in deployed]
        )
        return
    for d in deployed:
        state = " (paused)" if d.paused_at else ""
        echo(f"{d.program.name}  {d.program.version}  {d.program.model or ', '.join(d.program.adapters)}{state}")


def _from_python(file: Path) -> list[Program]:
    try:
        found = runpy.run_path(str(file), run_name="__dspex_deploy__")
    except DspexError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise click.UsageError(f"{_place(file, error)}: {type(error).__name__}: {error}") from error
    return [value for value in found.values() if isinstance(value, Program)]


def _place(file: Path, error: Exception) -> str:
    """The line of the file that failed."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    return f"{file}, line {line}" if line else str(file)


def _from_json(file: Path) -> list[Program]:
    try:
        content = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(fields, dict) for fields in content.values()):
        raise click.UsageError(f'{file} does not hold programs by name: {{"name": {{"signature": …}}, …}}')
    return [Program.from_content(name, fields) for name, fields in content.items()]
