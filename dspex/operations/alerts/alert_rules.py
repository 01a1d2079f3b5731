"""What is above its threshold: pure decisions over figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dspex.settings import Settings
from dspex.settings.alert_settings import AlertThresholds
from dspex.store.operations.figures import Figures, ProgramFigures

__all__ = ["RULES", "Breach", "Rule", "breaches"]

#: A health check this many intervals old, and no younger than so many seconds, says that nobody checks any more.
MISSED_CHECKS = 4
STALE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do about a kind of alert. ``sudden``: it counts what cannot be taken back, so it need not last."""

    remedy: str
    sudden: bool = False


RULES = {
    "execution_time": Rule("see where the time goes: `dspex list --program {subject}`, then `dspex show ID`"),
    "error_rate": Rule(
        "see why: `dspex list --status failed --program {subject}`; once mended, `dspex retry --failed "
        "--program {subject}`"
    ),
    "queue_age": Rule("start more workers, or see what holds them: `dspex workers`, `dspex health`"),
    "cost_per_hour": Rule("stop spending with `dspex pause {subject}`; see what spends: `dspex report --since 1h`"),
    "worker_memory": Rule(
        "have workers make room in time with DSPEX_WORKER_MAX_MEMORY_MB; if it grows on, a program leaks"
    ),
    "dead_workers": Rule(
        "see its log and the kernel's (out of memory?); what it ran has been queued again if a worker lives: `dspex "
        "workers`",
        sudden=True,
    ),
    "poisoned_executions": Rule(
        "these inputs kill workers: `dspex list --status failed --program {subject}`, then `dspex show ID` for where",
        sudden=True,
    ),
    "unhealthy": Rule("`dspex health` says what is wrong and what to do"),
    "test": Rule("nothing is wrong: somebody tried whether alerts arrive"),
}


@dataclass(frozen=True, slots=True)
class Breach:
    """A figure above its threshold; ``summary`` says it in words, with no part of an input or an output."""

    rule: str
    subject: str
    value: float
    threshold: float
    summary: str


def breaches(figures: Figures, settings: Settings) -> list[Breach]:
    """Everything that is above its threshold, each rule and subject once."""
    thresholds = settings.alert_thresholds
    found = [
        *(breach for program in figures.programs for breach in _program(program, figures, thresholds)),
        *_queues(figures, thresholds),
        *_cost(figures, thresholds),
        *_workers(figures, thresholds),
    ]
    return [*found, *_health(figures, settings)] if thresholds.unhealthy else found


def _program(program: ProgramFigures, figures: Figures, thresholds: AlertThresholds) -> Iterator[Breach]:
    name, window = program.program, _spelled(figures.window_seconds)
    judged = program.ended >= thresholds.min_executions
    slowest = thresholds.of(name, "execution_time_seconds")
    if judged and slowest is not None and program.p95_seconds > slowest:
        words = (
            f"one in twenty of {program.ended:,} executions ran for {program.p95_seconds:.1f} s or longer in {window}; "
            f"the threshold is {slowest:g} s"
        )
        yield Breach("execution_time", name, program.p95_seconds, slowest, words)
    rate = program.failed / program.ended if program.ended else 0.0
    most = thresholds.of(name, "error_rate")
    if judged and most is not None and rate > most:
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
        # A limited program waits because that was asked for: it is judged by a threshold of its own only.
        own = thresholds.programs.get(backlog.program)
        asked = not backlog.limited or (own is not None and "queue_age_seconds" in own.model_fields_set)
        if backlog.paused or not asked or longest is None or backlog.oldest_wait_seconds <= longest:
            continue
        words = (
            f"of {backlog.due:,} executions that are due the oldest has waited "
            f"{_spelled(backlog.oldest_wait_seconds)}; the threshold is {_spelled(longest)}"
        )
        yield Breach("queue_age", backlog.program, backlog.oldest_wait_seconds, longest, words)


def _cost(figures: Figures, thresholds: AlertThresholds) -> Iterator[Breach]:
    """That of the deployment, and of programs that have a threshold of their own."""
    dearest = max(figures.programs, key=lambda program: program.cost_per_hour_usd, default=None)
    total = sum(program.cost_per_hour_usd for program in figures.programs)
    limit = thresholds.cost_per_hour_usd
    if dearest is not None and limit is not None and total > limit:
        words = f"${total:,.2f} an hour, most of it by {dearest.program}; the threshold is ${limit:,.2f}"
        yield Breach("cost_per_hour", "", total, limit, words)
    for program in figures.programs:
        own = thresholds.programs.get(program.program)
        most = own.cost_per_hour_usd if own is not None else None
        if most is not None and program.cost_per_hour_usd > most:
            words = f"${program.cost_per_hour_usd:,.2f} an hour; the threshold is ${most:,.2f}"
            yield Breach("cost_per_hour", program.program, program.cost_per_hour_usd, most, words)


def _workers(figures: Figures, thresholds: AlertThresholds) -> Iterator[Breach]:
    most = thresholds.worker_memory_mb
    for worker in figures.memory:
        if most is not None and worker.memory_mb > most:
            words = f"{worker.memory_mb:,.0f} MiB are held; the threshold is {most:,.0f} MiB"
            yield Breach("worker_memory", f"{worker.host}:{worker.pid}", worker.memory_mb, most, words)
    few = thresholds.dead_workers
    if few is not None and len(figures.dead) > few:
        named = ", ".join(figures.dead[:3]) + (" …" if len(figures.dead) > 3 else "")
        window = _spelled(figures.window_seconds)
        words = f"{_counted(len(figures.dead), 'worker')} stopped without a word in {window}: {named}"
        yield Breach("dead_workers", "", len(figures.dead), few, words)


def _health(figures: Figures, settings: Settings) -> Iterator[Breach]:
    """Components at fault, as the last check found them; or that nobody has checked for long."""
    if (last := figures.health) is None:
        return
    oldest = max(settings.health_interval_seconds * MISSED_CHECKS, STALE_SECONDS)
    if last["age_seconds"] > oldest:
        words = f"the last one was {_spelled(last['age_seconds'])} ago: is beat running, and does a worker live?"
        yield Breach("unhealthy", "health checks", last["age_seconds"], oldest, words)
        return
    for name, component in last["report"]["components"].items():
        if component["status"] == "unhealthy":
            yield Breach("unhealthy", name, 1.0, 0.0, component["remedy"] or "its check fails")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _spelled(seconds: float) -> str:
    """A duration as somebody would say it: 45 s, 5 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
