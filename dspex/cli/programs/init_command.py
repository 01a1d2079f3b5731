"""``dspex init``."""

from __future__ import annotations

import keyword
from pathlib import Path

import click

from dspex.cli.output.plain_text import echo
from dspex.cli.programs.project_files import project_files

__all__ = ["init"]


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="The name of the package; by default DIRECTORY's.")
@click.option("--model", default="smollm2", show_default=True, help="The model of the program.")
def init(directory: Path, name: str | None, model: str) -> None:
    """Make a project in DIRECTORY: a program, a metric, a test and the settings.

    Example: dspex init support_desk --model openai/gpt-4o-mini
    """
    package = name or directory.resolve().name.replace("-", "_")
    if not package.isidentifier() or keyword.iskeyword(package) or package in ("dspex", "dspy", "tests", "workers"):
        raise click.UsageError(f"{package!r} cannot be the name of a package: give another one with --name")
    files = project_files(package, model)
    if present := [path for path in files if (directory / path).exists()]:
        raise click.UsageError(f"{directory} has {', '.join(present)} already, and nothing was changed")
    for path, text in files.items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        echo(str(place))
    echo(f"\ncd {directory} && pip install -e '.[test]' && pytest; then `dspex up`, and in another terminal")
    echo(f"dspex deploy {package}/programs.py && dspex run answers question=…")
