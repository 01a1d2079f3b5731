"""What becomes of a model call or an attempt that failed: pure decisions over the error tree.

What passes by itself within seconds is tried again inside the attempt, which holds its slot meanwhile; everything
else that another attempt may mend is left to one, scheduled in Postgres, which holds nothing. The rest is final.
"""

from __future__ import annotations

from dataclasses import dataclass

from dspex.errors import DspexError, ExecutionFailed, ModelError
from dspex.program.program import Retry

__all__ = [
    "ANOTHER_FORM",
    "BAD_ANSWERS",
    "PATIENCE_SECONDS",
    "TRANSIENT",
    "WITHIN_ATTEMPT",
    "Deferred",
    "Fail",
    "TryAgain",
    "after_failure",
    "backoff_seconds",
    "is_transient",
    "may_fall_back",
]

#: Failures of a model call that pass by themselves: unless marked otherwise, the call is made again in the attempt.
TRANSIENT = frozenset({"provider_unavailable", "rate_limited", "model_timeout"})
#: After these the model's answers are the fault, not the remedy: the next attempt asks anew for those at fault.
BAD_ANSWERS = frozenset({"output_unparseable", "output_invalid"})
#: After these another adapter may do better with the same program and the same model: it is there, it asks in another
#: form, in fewer words, or without what the provider does not support.
ANOTHER_FORM = BAD_ANSWERS | {"adapter_unavailable", "context_window_exceeded", "unsupported"}
#: What one adapter asks of a provider and another does not: a provider that refuses it refuses the form.
_FORM = frozenset({"grammar", "json_object", "json_schema", "response_format", "tool_choice", "tools"})
#: How often, and how soon, a call is made within one attempt.
WITHIN_ATTEMPT = Retry(max_attempts=3, backoff=0.5, max_backoff=4.0)
#: The longest wait before one more call within the attempt; who is asked to wait longer leaves it to a new attempt.
PATIENCE_SECONDS = 5.0


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed in a moment."""
    return isinstance(error, ModelError) and error.retryable and error.code in TRANSIENT


def may_fall_back(error: DspexError) -> bool:
    """Whether the program's next adapter may succeed where this error ended one.

    Not when it would meet the same obstacle (credentials, billing, an endpoint that is away, the inputs, the
    program's own code), nor against a limit (budget, deadline, cancellation).
    """
    if error.code == "invalid_request":
        return not _FORM.isdisjoint(error.details.get("mentions", ()))
    return error.code in ANOTHER_FORM


class Deferred(DspexError):
    """The attempt is handed back to the queue, through no fault of its own; it does not count.

    ``code``: ``rate_limited_locally limits_unknown budget_reserved budget_exceeded``.
    """

    code = "deferred"
    retryable = True

    @property
    def delay_seconds(self) -> float:
        return float(self.details.get("delay_seconds", 0.0))


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Another attempt, after ``delay_seconds``. ``counts``: this one was one of those the program allows."""

    delay_seconds: float
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Fail:
    """The end, with the error to record."""

    error: DspexError


def after_failure(
    error: DspexError, *, attempt: int, max_attempts: int, retry: Retry, chance: float
) -> TryAgain | Fail:
    """Decide on ``error.retryable`` and the attempts left. ``chance`` is a random number in [0, 1), for the jitter."""
    if isinstance(error, Deferred):
        return TryAgain(error.delay_seconds, counts=False)
    if not error.retryable:
        return Fail(error)
    if attempt < max_attempts:
        # Attempts that were handed back, or were before an operator's retry, make no wait longer.
        counted = max(attempt - (max_attempts - retry.max_attempts), 1)
        return TryAgain(backoff_seconds(error, attempt=counted, retry=retry, chance=chance))
    return Fail(
        ExecutionFailed(
            f"all {max_attempts} attempts failed, the last with {error.code}: {error}",
            code="attempts_exhausted",
            attempts=attempt,
            cause=error.as_dict(),
        )
    )


def backoff_seconds(error: DspexError, *, attempt: int, retry: Retry, chance: float) -> float:
    """Exponential, at most ``max_backoff``, up to 25 % off by chance; never sooner than the provider asks."""
    exponential = min(retry.backoff * 2.0 ** (attempt - 1), retry.max_backoff)
    asked = error.retry_after if isinstance(error, ModelError) else None
    return max(exponential * (1 - 0.25 * chance), asked or 0.0)
