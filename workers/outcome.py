"""What becomes of an attempt that failed: one pure decision over the error tree."""

from __future__ import annotations

from dataclasses import dataclass

from dspex.errors import DspexError, ExecutionFailed, ModelError
from dspex.program import Retry

__all__ = ["Fail", "TryAgain", "after_failure", "backoff_seconds"]


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Another attempt, after ``delay_seconds``."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The end, with the error to record."""

    error: DspexError


def after_failure(
    error: DspexError, *, attempt: int, max_attempts: int, retry: Retry, chance: float
) -> TryAgain | Fail:
    """Decide on ``error.retryable`` and the attempts left. ``chance`` is a random number in [0, 1), for the jitter."""
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
