"""The command group: subcommands by name, and what an error looks like."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from dspex.errors import (
    BackendUnavailable,
    ConfigurationError,
    DspexError,
    ExecutionNotFound,
    ProgramNotFound,
    SchemaOutdated,
    ValidationError,
)

__all__ = ["cli", "main"]

#: Exit codes.
DONE, FAILED, WRONG_USAGE, UNREACHABLE = 0, 1, 2, 3

#: Where each subcommand is, in the order that help shows them, with its line of help.
COMMANDS = {
    "demo": ("dspex.cli.demo:demo", "See it work: a real model, on the embedded stack."),
    "up": ("dspex.cli.up:up", "Run the embedded stack: Redis, Postgres, workers, beat, Flower."),
    "worker": ("dspex.cli.processes:worker", "Run a worker."),
    "beat": ("dspex.cli.processes:beat", "Run beat, which has the health checked."),
    "flower": ("dspex.cli.processes:flower", "Run the Flower dashboard."),
    "migrate": ("dspex.cli.migrate:migrate", "Bring the database's schema up to date."),
    "compile": ("dspex.cli.compile:compile_command", "Compile a signature and show what it means."),
    "deploy": ("dspex.cli.programs:deploy", "Deploy the programs of a Python or JSON file."),
    "run": ("dspex.cli.executions:run", "Execute a program and print its result."),
    "batch": ("dspex.cli.batch:batch", "Execute a program for every line of a file; it can be killed and go on."),
    "stream": ("dspex.cli.stream:stream", "Follow an execution: its status, and its fields as they are written."),
    "show": ("dspex.cli.show:show", "Show an execution and its timeline."),
    "list": ("dspex.cli.executions:list_command", "List executions, the newest first."),
    "cancel": ("dspex.cli.control:cancel", "Cancel executions."),
    "retry": ("dspex.cli.control:retry", "Queue failed or cancelled executions again."),
    "pause": ("dspex.cli.control:pause", "Begin no execution of a program."),
    "resume": ("dspex.cli.control:resume", "Begin executions of a paused program again."),
    "audit": ("dspex.cli.audit:audit", "Verify the audit trails of the whole database."),
    "adapters": ("dspex.cli.adapters:adapters_command", "List the adapters that can host programs."),
    "workers": ("dspex.cli.workers:workers", "List the live workers."),
    "bench": ("dspex.cli.bench:bench", "Put load on this deployment: how much it carries, where it is bound."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dspex")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """DSPex: durable, distributed execution of DSPy programs.

    Settings come from DSPEX_* variables or dspex.toml. Exit codes: 0 done, 1 the work failed, 2 wrong usage,
    3 a backend is unreachable.
    """
    ctx.obj = {"debug": debug}


def main() -> None:
    """Run the command line; a DSPex error becomes a message and an exit code."""
    try:
        result: Any = cli(standalone_mode=False)
        sys.exit(result if isinstance(result, int) else DONE)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(WRONG_USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except DspexError as error:
        if "--debug" in sys.argv:
            raise
        click.secho(f"{error.code}: ", fg="red", bold=True, err=True, nl=False)
        click.echo(str(error), err=True)
        sys.exit(exit_code(error))


#: What the user typed is wrong, rather than what was asked for having failed.
_USAGE = (ConfigurationError, ValidationError, ProgramNotFound, ExecutionNotFound)


def exit_code(error: DspexError) -> int:
    """The exit code of an error."""
    if isinstance(error, BackendUnavailable | SchemaOutdated):
        return UNREACHABLE
    wrong = isinstance(error, _USAGE) or error.code == "batch_refused"  # its files do not fit the command
    return WRONG_USAGE if wrong else FAILED
