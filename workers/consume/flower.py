"""Flower, the live view of workers and tasks, as DSPex runs it: ``python -m workers.consume.flower``.

``dspex flower`` becomes this process. The password comes from the settings, never from the command line. Flower's own
``FLOWER_*`` variables work as its documentation says, except for the options that are set here.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from flower.app import Flower
from flower.command import apply_env_options, extract_settings
from flower.options import default_options
from flower.urls import settings as web_settings
from tornado.template import Loader, Template

from dspex.settings import Settings
from workers.app import app

__all__ = ["main"]

log = logging.getLogger("dspex.flower")

#: A worker that ended this long ago is no longer shown.
FORGET_WORKERS_SECONDS = 3600
COLUMNS = "name,uuid,state,worker,received,runtime,exception"
#: What Flower's numbers count, shown on each of its pages.
NOTE = """
<p class="small text-body-secondary px-3 pt-2 mb-0">DSPex: each attempt of an execution counts as a task. Active counts
messages, each with up to 100 executions. All numbers begin when a Flower or a worker starts: <code>dspex report</code>
and <code>dspex list</code> have the whole history.</p>
"""
#: The place of the note in Flower's templates.
BEFORE_NOTE = '    {% block navbar %}\n      {% module Template("navbar.html", active_tab="") %}\n    {% end %}\n'


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    options = _options(Settings.load(), _arguments())
    templates = _NotedTemplates(web_settings["template_path"])
    view = Flower(capp=app, options=options, template_loader=templates, **web_settings)
    atexit.register(view.stop)
    for number in (signal.SIGTERM, signal.SIGINT):  # an exception of a handler can be lost where it is raised
        view.io_loop.asyncio_loop.add_signal_handler(number, view.io_loop.stop)
    try:
        port = view.start_http_server()
    except OSError as error:
        log.critical("cannot listen at %s:%s: %s", options.address, options.port, error.strerror or error)
        sys.exit(1)
    scheme = "https" if view.ssl_options else "http"
    log.info("Flower is at %s://%s:%s/%s", scheme, options.address, port, options.url_prefix or "")
    view.start()


class _NotedTemplates(Loader):
    """Flower's templates, with the note on every page."""

    def _create_template(self, name: str) -> Template:
        text = Path(self.root, name).read_text(encoding="utf-8")
        return Template(text.replace(BEFORE_NOTE, BEFORE_NOTE + NOTE), name=name, loader=self)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="workers.consume.flower")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--url-prefix")
    return parser.parse_args()


def _options(settings: Settings, arguments: argparse.Namespace) -> Any:
    options = default_options
    apply_env_options()
    options.port, options.address, options.url_prefix = arguments.port, arguments.address, arguments.url_prefix
    if settings.flower_password is not None:
        options.basic_auth = [f"{settings.flower_user}:{settings.flower_password.get_secret_value()}"]
    if not (options.basic_auth or options.auth):
        options.read_only = True  # every program of this machine reaches it, also a page in a browser
    options.max_tasks, options.max_workers = settings.flower_max_tasks, settings.flower_max_workers
    options.purge_offline_workers = FORGET_WORKERS_SECONDS
    options.tasks_columns = COLUMNS
    # It would keep a pickle, which is never read here: history is in Postgres.
    options.persistent = False
    extract_settings()
    return options


if __name__ == "__main__":
    main()
