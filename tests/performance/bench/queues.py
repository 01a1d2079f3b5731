"""The queues that DSPex is compared with: how their workers are started. Their code is in peers/."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.performance.bench.context import Context

__all__ = ["QUEUES", "Queue", "celery"]


@dataclass(frozen=True, slots=True)
class Queue:
    """A peer: its environment, its script, and the arguments of its worker, one process of 200 at once."""

    environment: str
    script: str
    worker: Sequence[str]

    @contextmanager
    def running(self, context: Context) -> Iterator[Producer]:
        """Its worker, started; the producer warms it up."""
        python = context.peer(self.environment)
        with context.peer_environment() as environment, context.process([python, *self.worker], environment):
            yield Producer(context, python, self.script, environment)


@dataclass(frozen=True, slots=True)
class Producer:
    context: Context
    python: str
    script: str
    environment: dict[str, str]

    def ask(self, what: str, number: int) -> Any:
        return self.context.ask([self.python, self.script, what, str(number)], self.environment)


def celery(app: str, *, pool: str = "threads", concurrency: int = 200) -> Sequence[str]:
    """The arguments of a Celery worker, without the chatter between workers."""
    options = ["--pool", pool, "--concurrency", str(concurrency), "--loglevel", "WARNING"]
    return ["-m", "celery", "--app", app, "worker", "--without-gossip", "--without-mingle", *options]


QUEUES = {
    "DBOS": Queue("dbos", "dbos_noop.py", ["dbos_noop.py", "work"]),
    "dramatiq": Queue(
        "dramatiq", "dramatiq_noop.py", ["-m", "dramatiq", "dramatiq_noop", "--processes", "1", "--threads", "200"]
    ),
    "SAQ": Queue("saq", "saq_noop.py", ["-m", "saq", "saq_noop.settings", "--quiet"]),
    "taskiq": Queue(
        "taskiq",
        "taskiq_noop.py",
        ["-m", "taskiq", "worker", "taskiq_noop:broker", "--workers", "1", "--max-async-tasks", "200",
         "--log-level", "WARNING"],
    ),
    "Celery": Queue("celery", "celery_noop.py", celery("celery_noop")),
}  # fmt: skip
