"""``python -m workers``: a worker, as ``celery -A workers.app worker``, without the rest of Celery's command line.

Celery's commands import Flower and a shell among others: a second of CPU and 25 MB that a worker does not need.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading

from celery.utils.nodenames import host_format

from workers.app import app
from workers.process.malloc import share_one_heap

__all__ = ["main"]

#: Threads of programs that run longer than this after the worker has ended are abandoned.
LAST_SECONDS = 5.0
#: How long a thread may hold Python's lock while others wait for it, a fifth of Python's default. The main thread and
#: the pump wait for it after each reply of Redis and Postgres, a dozen times for each message.
SWITCH_SECONDS = 0.001


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loglevel", default="INFO")
    parser.add_argument("--hostname", required=True, help="the worker's name; %%h stands for the host's")
    options = parser.parse_args()
    share_one_heap()
    sys.setswitchinterval(SWITCH_SECONDS)
    worker = app.Worker(
        hostname=host_format(options.hostname),
        loglevel=options.loglevel.upper(),
        # Lists of revoked tasks of other workers are not used: see workers/consume/remote_control.py.
        without_mingle=True,
        without_gossip=True,
    )
    worker.start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # it has stopped: a further signal must not look like a failure
    _leave_within(LAST_SECONDS, int(worker.exitcode or 0))
    return int(worker.exitcode or 0)


def _leave_within(seconds: float, code: int) -> None:
    """End this process even if a thread of a program, which Python would wait for, never ends."""

    def leave() -> None:
        logging.getLogger("dspex.workers").warning("threads of programs do not end: they are abandoned")
        logging.shutdown()
        os._exit(code)

    limit = threading.Timer(seconds, leave)
    limit.daemon = True
    limit.start()


if __name__ == "__main__":
    sys.exit(main())
