"""Alert rules: pure functions that compare figures with their thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dspex.settings import Settings
from dspex.settings.monitoring_settings import AlertThresholds
from dspex.store.operations.figures import Figures, ProgramFigures

__all__ = ["ALERT_RULES", "AlertRule", "Breach", "breaches"]

#: Health checks have stopped if the last one is older than this many intervals, and than so many seconds.
MISSED_CHECKS = 4
STALE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class AlertRule:
    """How to fix a kind of alert. ``sudden``: it counts events that cannot be undone, so it fires at once."""

    fix: str
    sudden: bool = False


ALERT_RULES = {
    "execution_time": AlertRule("find out where the time goes: `dspex list --program {subject}`, then `dspex show ID`"),
    "error_rate": AlertRule(
        "find the cause: `dspex list --status failed --program {subject}`; once it is fixed, `dspex retry --failed "
        "--program {subject}`"
    ),
    "queue_age": AlertRule("start more workers, or find out why they are slow: `dspex workers`, `dspex health`"),
    "cost_per_hour": AlertRule(
        "stop the program with `dspex pause {subject}`; find the expensive calls: `dspex report --since 1h`"
    ),
    "worker_memory": AlertRule(
        "let workers restart in time with DSPEX_WORKER_MAX_MEMORY_MB; if memory keeps growing, a program leaks"
    ),
    "dead_workers": AlertRule(
        "see the logs of the worker and the kernel (out of memory?); other workers recover its executions: `dspex "
        "workers`",
        sudden=True,
    ),
    "poisoned_executions": AlertRule(
        "these inputs kill workers: `dspex list --status failed --program {subject}`, then `dspex show ID`",
        sudden=True,
    ),
    "rollout_ended": AlertRule(
        "the version gets no more submits: `dspex versions {subject}` shows it, `dspex list --status failed --program "
        "{subject}` its failures; fix it, and begin a new rollout",
        sudden=True,
    ),
    "unhealthy": AlertRule("run `dspex health`, which shows the problem and its fix"),
    "test": AlertRule("nothing to fix: this is a test of the notifications"),
}


@dataclass(frozen=True, slots=True)
class Breach:
    """A figure above its threshold. ``summary`` describes it, and contains no part of an input or an output."""

    rule: str
    subject: str
    value: float
    threshold: float
    summary: str


def breaches(figures: Figures, settings: Settings) -> list[Breach]:
    """All figures above their thresholds, each rule and subject once."""
    thresholds = settings.alert_thresholds
    found = [
        *(breach for program in figures.programs for breach in _program(program, figures, thresholds)),
        *_queues(figures, thresholds),
        *_cost(figures, thresholds),
        *_workers(figures, thresholds),
    ]
    return [*found, *_health(figures, settings)] if thresholds.unhealthy else found


def _program(program: ProgramFigures, figures: Figures, thresholds: AlertThresholds) -> Iterator[Breach]:
    name, window = program.program, _duration(figures.window_seconds)
    has_enough = program.ended >= thresholds.min_executions
    slowest = thresholds.of(name, "execution_time_seconds")
    if has_enough and slowest is not None and program.p95_seconds > slowest:
        words = (
            f"one in twenty of {program.ended:,} executions ran for {program.p95_seconds:.1f} s or longer in {window}; "
            f"the threshold is {slowest:g} s"
        )
        yield Breach("execution_time", name, program.p95_seconds, slowest, words)
    rate = program.failed / program.ended if program.ended else 0.0
    most = thresholds.of(name, "error_rate")
    if has_enough and most is not None and rate > most:
        words = (
            f"{rate:.1%} of {program.ended:,} executions failed in {window}, most often with "
            f"{program.commonest_error}; the threshold is {most:.1%}"
        )
        yield Breach("error_rate", name, rate, most, words)
    cap = thresholds.poisoned_executions
    if cap is not None and program.poisoned > cap:
        words = f"{_counted(program.poisoned, 'execution')} killed every worker that tried, in {window}"
        yield Breach("poisoned_executions", name, program.poisoned, cap, words)


def _queues(figures: Figures, thresholds: AlertThresholds) -> Iterator[Breach]:
    for backlog in figures.backlogs:
        longest = thresholds.of(backlog.program, "queue_age_seconds")
        # A program with limits is expected to wait: only its own threshold counts.
        own = thresholds.programs.get(backlog.program)
        applies = not backlog.limited or (own is not None and "queue_age_seconds" in own.model_fields_set)
        if backlog.paused or not applies or longest is None or backlog.oldest_wait_seconds <= longest:
            continue
        words = (
            f"{backlog.due:,} executions are due, and the oldest has waited "
            f"{_duration(backlog.oldest_wait_seconds)}; the threshold is {_duration(longest)}"
        )
        yield Breach("queue_age", backlog.program, backlog.oldest_wait_seconds, longest, words)


def _cost(figures: Figures, thresholds: AlertThresholds) -> Iterator[Breach]:
    """The cost of the deployment, and of programs with their own threshold."""
    dearest = max(figures.programs, key=lambda program: program.cost_per_hour_usd, default=None)
    total = sum(program.cost_per_hour_usd for program in figures.programs)
    limit = thresholds.cost_per_hour_usd
    if dearest is not None and limit is not None and total > limit:
        words = f"${total:,.2f} per hour, most of it by {dearest.program}; the threshold is ${limit:,.2f}"
        yield Breach("cost_per_hour", "", total, limit, words)
    for program in figures.programs:
        own = thresholds.programs.get(program.program)
        most = own.cost_per_hour_usd if own is not None else None
        if most is not None and program.cost_per_hour_usd > most:
            words = f"${program.cost_per_hour_usd:,.2f} per hour; the threshold is ${most:,.2f}"
            yield Breach("cost_per_hour", program.program, program.cost_per_hour_usd, most, words)


def _workers(figures: Figures, thresholds: AlertThresholds) -> Iterator[Breach]:
    most = thresholds.worker_memory_mb
    for worker in figures.memory:
        if most is not None and worker.memory_mb > most:
            words = f"the worker uses {worker.memory_mb:,.0f} MiB; the threshold is {most:,.0f} MiB"
            yield Breach("worker_memory", f"{worker.host}:{worker.pid}", worker.memory_mb, most, words)
    few = thresholds.dead_workers
    if few is not None and len(figures.dead) > few:
        named = ", ".join(figures.dead[:3]) + (" …" if len(figures.dead) > 3 else "")
        window = _duration(figures.window_seconds)
        words = f"{_counted(len(figures.dead), 'worker')} died in {window}: {named}"
        yield Breach("dead_workers", "", len(figures.dead), few, words)


def _health(figures: Figures, settings: Settings) -> Iterator[Breach]:
    """Unhealthy components of the last health check, or that no check was made for too long."""
    if (last := figures.health) is None:
        return
    oldest = max(settings.health_interval_seconds * MISSED_CHECKS, STALE_SECONDS)
    if last["age_seconds"] > oldest:
        words = f"the last health check was {_duration(last['age_seconds'])} ago: are beat and a worker running?"
        yield Breach("unhealthy", "health checks", last["age_seconds"], oldest, words)
        return
    for name, component in last["report"]["components"].items():
        if component["status"] == "unhealthy":
            yield Breach("unhealthy", name, 1.0, 0.0, component["fix"] or "its check fails")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _duration(seconds: float) -> str:
    """A duration as text: 45 s, 5 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
