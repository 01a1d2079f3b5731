"""The command group: subcommands by name, and how the command line ends."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from dspex.cli.output.colour import coloured
from dspex.cli.output.error_output import DONE, INTERRUPTED, OUTPUT_CLOSED, tell
from dspex.cli.shell_completion import VARIABLE

__all__ = ["cli", "main"]

#: Where each subcommand is, in the order that help shows them, with its line of help.
COMMANDS = {
    "demo": ("dspex.cli.processes.demo_command:demo", "See it work: a real model, on the embedded stack."),
    "up": ("dspex.cli.processes.up_command:up", "Run the embedded stack: Redis, Postgres, workers, beat, Flower."),
    "worker": ("dspex.cli.processes.process_commands:worker", "Run a worker."),
    "beat": ("dspex.cli.processes.process_commands:beat", "Run beat, which has the health checked."),
    "flower": ("dspex.cli.processes.process_commands:flower", "Run the Flower dashboard."),
    "config": ("dspex.cli.operate.config_command:config", "Show the settings in force, and where each comes from."),
    "migrate": ("dspex.cli.operate.migrate_command:migrate", "Bring the database's schema up to date."),
    "compile": ("dspex.cli.programs.compile_command:compile_command", "Compile a signature and show what it means."),
    "deploy": ("dspex.cli.programs.deploy_command:deploy", "Deploy the programs of a Python or JSON file."),
    "run": ("dspex.cli.executions.run_command:run", "Execute a program and print its result."),
    "batch": (
        "dspex.cli.executions.batch_command:batch",
        "Execute a program for every line of a file; it can be killed and go on.",
    ),
    "stream": (
        "dspex.cli.executions.stream_command:stream",
        "Follow an execution: its status, and its fields as they are written.",
    ),
    "show": ("dspex.cli.executions.show_command:show", "Show an execution and its timeline."),
    "list": ("dspex.cli.executions.run_command:list_command", "List executions, the newest first."),
    "cancel": ("dspex.cli.executions.control_commands:cancel", "Cancel executions."),
    "retry": ("dspex.cli.executions.control_commands:retry", "Queue failed or cancelled executions again."),
    "pause": ("dspex.cli.executions.control_commands:pause", "Begin no execution of a program."),
    "resume": ("dspex.cli.executions.control_commands:resume", "Begin executions of a paused program again."),
    "audit": ("dspex.cli.operate.audit_command:audit", "Verify audit trails, or write them to a file."),
    "retention": (
        "dspex.cli.operate.retention_command:retention",
        "Show what is kept and for how long, and remove what is old.",
    ),
    "backup": ("dspex.cli.operate.backup_commands:backup", "Write all that DSPex keeps to a file."),
    "restore": ("dspex.cli.operate.backup_commands:restore", "Put a backup into a database."),
    "encryption": (
        "dspex.cli.operate.encryption_command:encryption",
        "Make and rotate the keys that seal secret fields.",
    ),
    "adapters": ("dspex.cli.programs.adapters_command:adapters_command", "List the adapters that can host programs."),
    "workers": ("dspex.cli.operate.workers_command:workers", "List the live workers."),
    "health": (
        "dspex.cli.operate.health_command:health",
        "Show how everything is, and what to do where it is not well.",
    ),
    "report": (
        "dspex.cli.operate.report_command:report",
        "Report what happened: outcomes, times, costs, errors, events, alerts.",
    ),
    "alerts": ("dspex.cli.operate.alerts_command:alerts", "List alerts, evaluate them now, or tell a test alert."),
    "completion": ("dspex.cli.shell_completion:completion", "Print the script that completes commands in a shell."),
    "doctor": (
        "dspex.cli.operate.doctor_command:doctor",
        "Say whether this deployment is ready, and how to mend what is not.",
    ),
    "bench": (
        "dspex.cli.operate.bench_command:bench",
        "Put load on this deployment: how much it carries, where it is bound.",
    ),
}


#: Every command takes it, so that it can be put at the end of a line that has failed.
_DEBUG = click.Option(["--debug"], is_flag=True, expose_value=False, hidden=True)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return _with_debug(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read the output has gone: nothing is left to be told
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OUTPUT_CLOSED
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dspex")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; it may stand after the command too.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """DSPex: durable, distributed execution of DSPy programs.

    Settings come from DSPEX_* variables or dspex.toml. Results are printed to standard output, all else to standard
    error. Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 a backend is unreachable.

    Example: dspex demo
    """
    ctx.color = coloured()


def main() -> None:
    """Run the command line; an error becomes a message and an exit code."""
    sys.exit(_ended(sys.argv[1:]))


def _ended(arguments: Sequence[str]) -> int:
    if VARIABLE in os.environ:  # a shell that completes a line: nothing that goes wrong may be printed into it
        with suppress(Exception):
            cli.main(list(arguments), prog_name="dspex", complete_var=VARIABLE)
        return DONE
    try:
        result = cli.main(list(arguments), prog_name="dspex", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except Exception as error:  # whatever it is, the user is told what happened
        return tell(error, as_json=_asks("--json", arguments), debug=_asks("--debug", arguments))
    return result if isinstance(result, int) else DONE


def _asks(option: str, arguments: Sequence[str]) -> bool:
    """Whether an option is there; the line may be too wrong to be parsed."""
    return option in arguments[: arguments.index("--") if "--" in arguments else None]


def _with_debug(command: click.Command) -> click.Command:
    if _DEBUG not in command.params:
        command.params.append(_DEBUG)
    for sub in command.commands.values() if isinstance(command, click.Group) else ():
        _with_debug(sub)
    return command
