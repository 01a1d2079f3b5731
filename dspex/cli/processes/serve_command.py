"""``dspex serve``."""

from __future__ import annotations

import click

from dspex.cli.output.plain_text import echo
from dspex.cli.processes.replace_process import replace_process
from dspex.serve import require_extra
from dspex.settings import Settings
from dspex.settings.web_settings import is_this_machine

__all__ = ["SERVE_PORT", "serve"]

SERVE_PORT = 8400


@click.command()
@click.option(
    "--port", default=SERVE_PORT, show_default=True, type=click.IntRange(1, 65535), help="The port to listen on."
)
@click.option("--address", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--url-prefix", metavar="PATH", help="The path under which a proxy serves it, as in https://host/dspex/.")
def serve(port: int, address: str, url_prefix: str | None) -> None:
    """Run the HTTP gateway and the console.

    Every request needs a key of `dspex keys create`, except in development on this machine. Start several on different
    hosts for more requests; they share nothing but Postgres and Redis.

    \b
    Examples:
      dspex serve
      dspex serve --address 0.0.0.0 --port 8400 --url-prefix dspex
    """
    settings = Settings.load()
    require_extra()
    prefix = (url_prefix or "").strip("/")
    host = f"[{address}]" if ":" in address else address
    echo(f"The console: http://{host}:{port}/{prefix}", err=True)
    if settings.profile.open_gateway and is_this_machine(address):
        echo("Requests of this machine need no key, as DSPEX_ENV is not production.", err=True)
    else:
        echo("Requests need a key: `dspex keys create NAME`.", err=True)
    arguments = ["-m", "dspex.serve", address, str(port), *([prefix] if prefix else [])]
    replace_process(arguments, settings, extra="serve", calls_models=False)
