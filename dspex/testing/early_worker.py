"""A worker of a test session, begun before its servers: ``python -m dspex.testing.early_worker HOME``.

What every worker imports takes longer than the start of the servers. So it is imported at once; as soon as the stack of
the home is announced, this process goes on as its worker.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from pathlib import Path

from dspex.embedded.home import Stack, read_stack
from dspex.program.worker_package import load_workers, main

__all__: list[str] = []

#: What a worker imports before it reads its settings.
LIBRARIES = (
    "celery.app.log",
    "celery.apps.worker",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.strategy",
    "kombu.transport.redis",
    "sqlalchemy.dialects.postgresql.psycopg",
    "workers.adapters.dspy.dspy_adapter",
    "workers.consume.consumer",
    "workers.pool",
)


def _announced(home: Path) -> Stack:
    while (stack := read_stack(home)) is None:
        time.sleep(0.02)
    return stack


def _run(home: Path) -> None:
    load_workers()
    for name in LIBRARIES:
        import_module(name)
    stack = _announced(home)
    os.environ.update(DSPEX_DATABASE_URL=stack.database_url, DSPEX_BROKER_URL=stack.broker_url)
    sys.argv[1:] = ["-m", "workers", "--hostname", f"dspex-{os.getpid()}@%h"]
    main()


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
