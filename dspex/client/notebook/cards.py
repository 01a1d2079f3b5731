"""Executions and batches as HTML, for notebooks. Nothing is queried for an execution: it is shown as it was read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspex.signatures.html_card import card

if TYPE_CHECKING:
    from dspex.client.batch import Progress
    from dspex.client.execution import ExecutionSnapshot

__all__ = ["batch_card", "execution_card"]


def execution_card(execution: ExecutionSnapshot) -> str:
    """The state of an execution at the last read, without its inputs and result."""
    metrics = execution.metrics
    cost = "unknown" if metrics.cost_usd is None else f"${metrics.cost_usd:.6g}"
    error = execution.shown_error
    pairs: list[tuple[str, object]] = [
        ("program", f"{execution.program} ({execution.version})"),
        ("status", execution.status),
        ("attempts", execution.attempts),
        ("submitted", f"{execution.created_at:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    if execution._has_figures:
        pairs += [
            ("time", f"{metrics.execution_time_ms:,.0f} ms, {metrics.queue_time_ms:,.0f} ms in the queue"),
            ("model calls", f"{metrics.lm_calls} ({metrics.replayed_lm_calls} replayed), cost {cost}"),
        ]
    if error is not None:
        pairs.append(("error", f"{error.code}: {error}"))
    return card(f"Execution {execution.id}", pairs)


def batch_card(id: object, program: str, progress: Progress | None, rejected: int) -> str:
    """A batch with its progress; without, where it cannot be read."""
    pairs: list[tuple[str, object]] = [("program", program)]
    if progress is not None:
        left = progress.total - progress.finished
        eta = "" if not left or progress.eta_seconds is None else f", {progress.eta_seconds:,.0f} s left"
        more = f"; {progress.unpriced:,} executions have an unknown cost" if progress.unpriced else ""
        pairs += [
            ("done", f"{progress.finished:,} of {progress.total:,}{eta}"),
            ("completed", f"{progress.completed:,}"),
            ("failed", f"{progress.failed:,}"),
            ("cancelled", f"{progress.cancelled:,}"),
            ("cost", f"${progress.cost_usd:.6g}{more}"),
        ]
    if rejected:
        pairs.append(("rejected rows", f"{rejected:,}"))
    return card(f"Batch {id}", pairs)
