"""The start of a session of dspex.testing, in a process of its own: ``make bench ONLY=kit`` runs it.

``python -m tests.performance.bench_test_kit PART`` prints as JSON how many seconds the start took, imports included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

__all__ = ["PARTS"]

PARTS = {"servers": "Postgres and Redis with the schema", "worker": "the same, and a worker that takes executions"}


def main() -> None:
    began = time.perf_counter()
    from dspex.testing.session_stack import SessionStack

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    with_worker = parser.parse_args().part == "worker"
    with (
        tempfile.TemporaryDirectory(prefix="dspex-bench-kit-") as home,
        SessionStack(Path(home), {}, with_worker=with_worker) as stack,
    ):
        if with_worker:
            stack.worker.ensure()
        print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
