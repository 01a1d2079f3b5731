"""The process of ``dspex serve``: ``python -m dspex.serve ADDRESS PORT [PREFIX]``."""

from __future__ import annotations

import logging
import sys

from dspex.serve.http_server import serve
from dspex.settings import Settings
from dspex.settings.web_settings import is_this_machine


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    address, port, *rest = sys.argv[1:]
    prefix = rest[0].strip("/") if rest else ""
    settings = Settings.load()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    is_open = settings.profile.open_gateway and is_this_machine(address)
    serve(settings, host=address, port=int(port), root_path=f"/{prefix}" if prefix else "", is_open=is_open)


if __name__ == "__main__":
    main()
