"""docs/reference/metrics.md: every metric of a worker, from workers/observe/metrics.py."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

from dspex.store.operations.health import Backlog
from workers.observe import metrics

__all__ = ["page"]

_HEAD = f"""\
# Metrics

<!-- Made by `python -m docs.generate` from workers/observe/metrics.py: do not edit. -->

What a worker tells at `/metrics`, once `DSPEX_HTTP_PORT` is set (see [watch health](../how-to/watch-health.md)).
Counters and histograms are of one process: sum them over all. The queue and the number of workers are of the whole
deployment, and told by the worker that leads the pump alone: take the maximum, because two may tell them while the lead
moves.

Labels are bounded: the first {metrics.MOST_PROGRAMS} programs, {metrics.MOST_MODELS} models and {metrics.MOST_CODES}
codes of errors that a process sees have their own, later ones are `other`. No label holds an id, an input or an output.

| metric | kind | labels | what it tells |
|---|---|---|---|
"""


def page() -> str:
    """The text of the page."""
    return _HEAD + "".join(f"{_row(metric)}\n" for metric in _metrics())


def _metrics() -> Iterator[Metric]:
    seen = metrics.Queue()
    seen.note([Backlog("", 0, 0, 0.0, 0.0, paused=False, limited=False)], workers=0)
    for collector in (metrics.REGISTRY, seen):
        yield from (metric for metric in collector.collect() if not metric.name.startswith("dspex_process_"))
    yield from ProcessCollector(namespace="dspex", registry=None).collect()


def _row(metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    labels = ", ".join(f"`{label}`" for label in _labels(metric.name))
    return f"| `{name}` | {metric.type} | {labels} | {metric.documentation} |"


def _labels(name: str) -> tuple[str, ...]:
    for made in vars(metrics).values():
        if getattr(made, "_name", None) == name:
            return tuple(made._labelnames)
    return ("program",) if name.startswith("dspex_queue_") else ()
