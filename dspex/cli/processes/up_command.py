"""``dspex up``: the embedded stack, until Ctrl-C."""

from __future__ import annotations

import socket
from importlib.util import find_spec

import click
from rich.console import Console

from dspex.cli.output.console_tables import console as new_console
from dspex.cli.processes.replace_process import require_stack
from dspex.cli.processes.serve_command import SERVE_PORT
from dspex.cli.processes.stack_display import StackProgress
from dspex.embedded.embedded_stack import EmbeddedStack, stop_on_signals
from dspex.embedded.ports import free_port
from dspex.errors import ConfigurationError
from dspex.program.worker_package import hidden_warning
from dspex.serve import require_extra
from dspex.settings import Settings, without_password

__all__ = ["FLOWER_PORT", "console_port", "up", "usual_port"]

FLOWER_PORT = 5555


@click.command()
@click.option("--workers", default=1, show_default=True, type=click.IntRange(0, 64), help="Worker processes.")
@click.option("--no-flower", is_flag=True, help="Do not start the Flower dashboard.")
@click.option("--no-serve", is_flag=True, help="Do not start the console and the HTTP gateway.")
def up(workers: int, no_flower: bool, no_serve: bool) -> None:
    """Run Redis, Postgres, workers, beat, Flower and the console on this machine until Ctrl-C.

    Flower and the console run where the extras flower and serve are installed. Data is kept under DSPEX_HOME. A Client
    with the same DSPEX_HOME finds the stack.

    Example: dspex up --workers 2
    """
    settings = Settings.load(database_url=None, broker_url=None)
    require_stack(settings)
    flower = not no_flower and find_spec("flower") is not None
    console = new_console(stderr=True)
    console.print(f"Starting the embedded stack of [bold]{settings.home}[/]")
    if warning := hidden_warning():
        console.print(f"warning: {warning}", soft_wrap=True)
    with stop_on_signals(), StackProgress(console) as progress:
        stack = EmbeddedStack(
            settings.home,
            workers=workers,
            flower=flower,
            flower_port=usual_port(FLOWER_PORT) if flower else None,
            console_port=None if no_serve else console_port(),
            worker_grace=settings.grace_seconds + 10,
            durable=settings.profile.durable,
            on_progress=progress,
        )
        try:
            with stack:
                _announce(console, stack)
                stack.wait()
        except KeyboardInterrupt:
            console.print("The stack is stopped; its data is kept.")


def usual_port(port: int) -> int | None:
    """The port if it is free on this host, else None."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return port


def console_port() -> int | None:
    """A port for the console: its usual one if that is free. None if the extra `serve` is not installed."""
    try:
        require_extra()
    except ConfigurationError:
        return None
    return usual_port(SERVE_PORT) or free_port()


def _announce(console: Console, stack: EmbeddedStack) -> None:
    info = stack.info
    console.print("\nThe stack is up:")
    if info.console_url:
        console.print(f"  Console   [bold]{info.console_url}[/]", soft_wrap=True)
    console.print(f"  Postgres  {without_password(info.database_url)}", soft_wrap=True)
    console.print(f"  Redis     {without_password(info.broker_url)}", soft_wrap=True)
    if info.flower_url:
        console.print(f"  Flower    {info.flower_url}", soft_wrap=True)
    console.print(f"  Logs      {stack.home.log_dir}", soft_wrap=True)
    console.print("\nIn another terminal: [bold]dspex workers[/], [bold]dspex list[/], or your own script with "
                  "[bold]dspex.Client()[/].\nCtrl-C stops everything and keeps the data.")  # fmt: skip
