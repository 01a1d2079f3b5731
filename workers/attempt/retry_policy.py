"""Which failed model calls and attempts are made again, and when: pure decisions over the error tree.

A call whose failure passes by itself within seconds is made again in the attempt, which holds its slot meanwhile. For
any other retryable failure another attempt is scheduled in Postgres, which holds no slot. The rest is final.
"""

from __future__ import annotations

from dataclasses import dataclass

from dspex.errors import DspexError, ExecutionFailed, ModelError
from dspex.program.program import Retry
from workers.adapters.unrunnable import LACKS_KEY, RUNS_ELSEWHERE

__all__ = [
    "LONGEST_PAUSE_SECONDS",
    "OUT_OF_REACH",
    "TRANSIENT",
    "WITHIN_ATTEMPT",
    "Deferred",
    "Fail",
    "TryAgain",
    "after_failure",
    "backoff_seconds",
    "is_transient",
]

#: Failures of a model call that pass by themselves: unless marked otherwise, the call is made again in the attempt.
TRANSIENT = frozenset({"provider_unavailable", "rate_limited", "model_timeout"})
#: Failures of a model that another provider's model may not have: the program's next model is asked.
OUT_OF_REACH = TRANSIENT | {"authentication", "billing"}
#: How often, and how soon, a call is made within one attempt.
WITHIN_ATTEMPT = Retry(max_attempts=3, backoff=0.5, max_backoff=4.0)
#: How soon an execution is dispatched again whose program this worker cannot run.
ELSEWHERE_SECONDS = 1.0
#: How soon an execution is tried again whose key the worker lacks: twice as late each time, up to this.
LONGEST_KEY_SECONDS = 300.0
#: The longest pause before one more call within the attempt. For a longer one, a new attempt is scheduled.
LONGEST_PAUSE_SECONDS = 5.0


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    return isinstance(error, ModelError) and error.retryable and error.code in TRANSIENT


class Deferred(DspexError):
    """A limit or a budget refuses a call now: the attempt goes back to the queue and does not count.

    ``code``: ``rate_limited_locally limits_unknown budget_reserved budget_exceeded``.
    """

    code = "deferred"
    retryable = True

    @property
    def delay_seconds(self) -> float:
        return float(self.details.get("delay_seconds", 0.0))


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Another attempt, after ``delay_seconds``. ``counts``: whether this one was one of ``max_attempts``."""

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
    if error.code in RUNS_ELSEWHERE:
        return TryAgain(ELSEWHERE_SECONDS, counts=False)
    if error.code in LACKS_KEY:
        return TryAgain(min(ELSEWHERE_SECONDS * 2.0 ** min(attempt, 10), LONGEST_KEY_SECONDS), counts=False)
    if not error.retryable:
        return Fail(error)
    if attempt < max_attempts:
        # Attempts that were handed back, or came before an operator's retry, do not lengthen the wait.
        counted = max(attempt - (max_attempts - retry.max_attempts), 1)
        return TryAgain(backoff_seconds(error, attempt=counted, retry=retry, chance=chance))
    return Fail(
        ExecutionFailed(
            f"no attempt is left: attempt {attempt} failed with {error.code}: {error}",
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
