"""The command group: subcommands by name, errors and exit codes."""

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
from dspex.cli.output.error_output import print_error
from dspex.cli.output.exit_codes import DONE, INTERRUPTED, OUTPUT_CLOSED
from dspex.cli.output.plain_text import echo
from dspex.cli.shell_completion import VARIABLE

__all__ = ["cli", "main"]

#: Where each subcommand is defined, and its line of help, in the order of the help.
COMMANDS = {
    "demo": ("dspex.cli.processes.demo_command:demo", "Run an example with a real model on the embedded stack."),
    "up": ("dspex.cli.processes.up_command:up", "Run the embedded stack: Redis, Postgres, workers, beat, Flower."),
    "worker": ("dspex.cli.processes.worker_command:worker", "Run a worker."),
    "beat": ("dspex.cli.processes.beat_command:beat", "Run beat, which schedules health checks, alerts and upkeep."),
    "flower": ("dspex.cli.processes.flower_command:flower", "Run the Flower dashboard."),
    "serve": ("dspex.cli.processes.serve_command:serve", "Run the HTTP gateway and the console."),
    "config": ("dspex.cli.operate.config_command:config", "Show the settings in force and where each comes from."),
    "migrate": ("dspex.cli.operate.migrate_command:migrate", "Bring the database's schema up to date."),
    "compile": (
        "dspex.cli.programs.compile_command:compile_command",
        "Compile a signature and show its fields and schemas.",
    ),
    "init": ("dspex.cli.programs.init_command:init", "Make a project: a program, a metric, a test and the settings."),
    "deploy": ("dspex.cli.programs.deploy_command:deploy", "Deploy the programs of a Python or JSON file."),
    "import": (
        "dspex.cli.programs.import_command:import_command",
        "Deploy an existing dspy.Module, and print what was derived from it.",
    ),
    "programs": (
        "dspex.cli.programs.programs_command:programs",
        "List the deployed programs, with their queued and running executions.",
    ),
    "versions": (
        "dspex.cli.programs.version_commands:versions",
        "List the deployed versions of a program, its aliases and its rollouts.",
    ),
    "diff": ("dspex.cli.programs.version_commands:diff", "Show two versions of a program side by side."),
    "promote": ("dspex.cli.programs.version_commands:promote", "Make a deployed version the current one."),
    "alias": ("dspex.cli.programs.version_commands:alias", "Give a version of a program a name."),
    "rollout": (
        "dspex.cli.programs.version_commands:rollout",
        "Send a share of new submits to a version, or end that.",
    ),
    "dataset": (
        "dspex.cli.improve.dataset_command:dataset",
        "Store a file, or executions with feedback, as a dataset; list datasets.",
    ),
    "evaluate": (
        "dspex.cli.improve.evaluate_commands:evaluate",
        "Execute a program for each row of a dataset, and score its outputs.",
    ),
    "compare": ("dspex.cli.improve.evaluate_commands:compare", "Compare two evaluations, regressions first."),
    "optimize": (
        "dspex.cli.improve.optimize_command:optimize",
        "Have a worker look for a better state of a program.",
    ),
    "replay": (
        "dspex.cli.improve.replay_command:replay",
        "Execute recorded inputs with another version, and show what changes.",
    ),
    "run": ("dspex.cli.executions.run_command:run", "Execute a program and print its result."),
    "batch": (
        "dspex.cli.batches.batch_command:batch",
        "Execute a program for every row of a file; an interrupted run can be continued.",
    ),
    "stream": (
        "dspex.cli.executions.stream_command:stream",
        "Follow an execution: its status, and its fields as the model writes them.",
    ),
    "show": ("dspex.cli.executions.show_command:show", "Show an execution, its timeline and its model calls."),
    "export-test": (
        "dspex.cli.executions.export_test_command:export_test",
        "Print a test that runs a recorded execution again, for pytest.",
    ),
    "list": ("dspex.cli.executions.list_command:list_command", "List executions, newest first."),
    "batches": ("dspex.cli.batches.batches_command:batches", "List batches with their progress, newest first."),
    "cancel": ("dspex.cli.executions.cancel_command:cancel", "Cancel executions."),
    "approvals": (
        "dspex.cli.executions.approvals_commands:approvals",
        "List calls of tools that wait for a decision.",
    ),
    "approve": ("dspex.cli.executions.approvals_commands:approve", "Let an execution make a call that it waits for."),
    "reject": ("dspex.cli.executions.approvals_commands:reject", "Have an execution go on without such a call."),
    "retry": ("dspex.cli.executions.retry_command:retry", "Queue failed or cancelled executions again."),
    "pause": ("dspex.cli.executions.pause_commands:pause", "Start no more executions of a program."),
    "resume": ("dspex.cli.executions.pause_commands:resume", "Start executions of a paused program again."),
    "audit": ("dspex.cli.operate.audit_command:audit", "Verify audit trails, or export them to a file."),
    "retention": (
        "dspex.cli.operate.retention_command:retention",
        "Show how long data is kept, and remove expired data.",
    ),
    "backup": ("dspex.cli.operate.backup_commands:backup", "Write a backup of all DSPex data to a file."),
    "restore": ("dspex.cli.operate.backup_commands:restore", "Restore a backup into a database."),
    "encryption": (
        "dspex.cli.operate.encryption_command:encryption",
        "Create and rotate the keys that encrypt secret fields.",
    ),
    "keys": ("dspex.cli.operate.keys_command:keys", "Create, list and revoke keys for requests over HTTP."),
    "adapters": ("dspex.cli.programs.adapters_command:adapters_command", "List the adapters that can host programs."),
    "bundles": ("dspex.cli.operate.bundles_command:bundles", "List bundles of requests at providers' batch APIs."),
    "workers": ("dspex.cli.operate.workers_command:workers", "List the live workers."),
    "health": (
        "dspex.cli.operate.health_command:health",
        "Show the health of every component and how to fix problems.",
    ),
    "report": (
        "dspex.cli.operate.report_command:report",
        "Report outcomes, times, costs, errors, events and alerts of a period.",
    ),
    "alerts": ("dspex.cli.operate.alerts_command:alerts", "List alerts, evaluate them now, or send a test alert."),
    "completion": ("dspex.cli.shell_completion:completion", "Print the script that completes commands in a shell."),
    "doctor": (
        "dspex.cli.operate.doctor_command:doctor",
        "Check whether this deployment is ready, and show how to fix problems.",
    ),
    "bench": (
        "dspex.cli.operate.bench_command:bench",
        "Put load on this deployment, and measure its throughput and its bottleneck.",
    ),
}


#: Every command accepts it, so that it can be appended to a command line that failed.
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
        except BrokenPipeError:  # the reader of the output is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OUTPUT_CLOSED
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dspex")
@click.option("--debug", is_flag=True, help="Show the traceback of an error. May also follow the command.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """DSPex: durable, distributed execution of DSPy programs.

    Settings come from DSPEX_* variables or dspex.toml. Results are printed to standard output, everything else to
    standard error. Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 Postgres or Redis is unreachable.

    Example: dspex demo
    """
    ctx.color = coloured()


def main() -> None:
    """Run the command line. An error is printed as a message, and sets the exit code."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: Sequence[str]) -> int:
    if VARIABLE in os.environ:  # the shell asks for completions: an error would be printed into the user's line
        with suppress(Exception):
            cli.main(list(arguments), prog_name="dspex", complete_var=VARIABLE)
        return DONE
    try:
        result = cli.main(list(arguments), prog_name="dspex", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        echo("interrupted", err=True)
        return INTERRUPTED
    except Exception as error:  # of any kind: the user sees a message and no traceback
        return print_error(error, as_json=_has("--json", arguments), debug=_has("--debug", arguments))
    return result if isinstance(result, int) else DONE


def _has(option: str, arguments: Sequence[str]) -> bool:
    """Whether an option is given. The command line itself may be impossible to parse."""
    return option in arguments[: arguments.index("--") if "--" in arguments else None]


def _with_debug(command: click.Command) -> click.Command:
    if _DEBUG not in command.params:
        command.params.append(_DEBUG)
    for sub in command.commands.values() if isinstance(command, click.Group) else ():
        _with_debug(sub)
    return command
