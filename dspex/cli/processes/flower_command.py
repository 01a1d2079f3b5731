"""``dspex flower``."""

from __future__ import annotations

import click

from dspex.cli.processes.replace_process import replace_process
from dspex.errors import ConfigurationError
from dspex.settings import Settings
from dspex.settings.web_settings import flower_faults

__all__ = ["flower"]


@click.command()
@click.option("--port", default=5555, show_default=True, type=click.IntRange(1, 65535), help="The port to listen on.")
@click.option("--address", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--url-prefix", metavar="PATH", help="The path under which a proxy serves it, as in https://host/flower/."
)
def flower(port: int, address: str, url_prefix: str | None) -> None:
    """Run Flower, the dashboard of workers and tasks.

    Flower asks for DSPEX_FLOWER_USER and DSPEX_FLOWER_PASSWORD. Without a password it listens on this machine only,
    is read-only, and does not start in production.

    \b
    Examples:
      dspex flower --port 5555
      dspex flower --address 0.0.0.0 --url-prefix flower
    """
    settings = Settings.load()
    if faults := flower_faults(settings, address, may_be_open=settings.profile.open_flower):
        raise ConfigurationError("; ".join(faults), errors=faults)
    arguments = ["-m", "workers.consume.flower", "--port", str(port), "--address", address]
    prefix = (url_prefix or "").strip("/")
    arguments += ["--url-prefix", prefix] if prefix else []
    replace_process(arguments, settings, extra="flower", calls_models=False)
