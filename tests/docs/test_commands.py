"""The commands with their options, make targets and settings that the pages name exist."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from importlib import import_module

import click
import pytest

from dspex.cli.main import COMMANDS, cli
from dspex.settings import Settings, variable
from tests.docs.pages import ROOT, Block, blocks, pages

#: Variables that are read but are not settings.
OTHERS = {"DSPEX_DEMO_MODEL"}
_COMMAND = re.compile(
    r"(?:^|[;|&(]\s*|exec (?:-T )?worker )(?:\w+=\S*\s+)*"  # where a command begins
    r"dspex\b((?:\s+(?:'[^']*'|\"[^\"]*\"|\$\([^)]*\)|[^\s;|&)#`'\"])+)*)"
)


def shown() -> Iterator[tuple[Block, str]]:
    """Each line to type."""
    for page in pages():
        for block in blocks(page):
            if block.language in ("console", "text"):
                yield from ((block, line[2:]) for line in block.text.splitlines() if line.startswith("$ "))
            elif block.language in ("bash", "sh"):
                joined = block.text.replace("\\\n", " ")
                yield from ((block, line) for line in joined.splitlines() if not line.startswith("#"))


def parse(arguments: list[str]) -> None:
    """Parse the arguments of ``dspex`` with click. Raises UsageError for an unknown command or option."""
    command: click.Command = cli
    context = click.Context(cli, info_name="dspex")
    while isinstance(command, click.Group):
        _, arguments, _ = command.make_parser(context).parse_args(arguments)
        if not arguments:
            return
        found = command.get_command(context, arguments[0])
        if found is None:
            raise click.UsageError(f"no command {arguments[0]!r}")
        command, arguments = found, arguments[1:]
    options, _, _ = command.make_parser(context).parse_args(arguments)
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and isinstance(options.get(str(parameter.name)), str):
            parameter.type.convert(options[str(parameter.name)], parameter, context)


def test_the_commands_exist() -> None:
    seen = 0
    for block, line in shown():
        for found in _COMMAND.finditer(line):
            arguments = [word for word in shlex.split(found[1]) if word != "…"]
            try:
                parse(arguments)
            except click.UsageError as error:
                pytest.fail(f"{block}: dspex {shlex.join(arguments)}: {error.format_message()}")
            seen += 1
    assert seen > 80


def test_the_tables_that_pages_show_have_the_columns_of_the_commands() -> None:
    """A line of at least three cells in words alone is the heading of a table."""
    seen = 0
    for block in (block for page in pages() for block in blocks(page)):
        module = ""
        for line in block.text.splitlines() if block.language in ("console", "text") else ():
            if command := re.match(r"\$ (?:\w+=\S+ )*dspex ([a-z-]+)", line):
                module = COMMANDS[command[1]][0].partition(":")[0]
            cells = re.split(r"\s{2,}", line.strip())
            if module and len(cells) >= 3 and all(re.fullmatch("[a-z ]+", cell) for cell in cells):
                missing = set(cells) - texts_of(module)
                assert not missing, f"{block}: {module} prints no column {sorted(missing)}"
                seen += 1
    assert seen >= 5


def texts_of(module: str) -> set[str]:
    """All texts in the source of a module."""
    source = inspect.getsource(import_module(module))
    constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        named = set(re.findall(r"(?:`|^\$ )make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE))
        assert named <= targets, page


def test_the_settings_exist() -> None:
    settings = {variable(name) for name in Settings.model_fields} | OTHERS
    for page in pages():
        named = set(re.findall(r"\bDSPEX_[A-Z_]+[A-Z]\b", page.read_text()))
        unknown = {name for name in named - settings if name.removesuffix("_FILE") not in settings}
        assert not unknown, f"{page} names {sorted(unknown)}"
