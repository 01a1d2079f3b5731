"""What becomes of an attempt that failed."""

from __future__ import annotations

import pytest

from dspex.errors import DspexError, ExecutionFailed, ModelError
from dspex.program import Retry
from workers.outcome import Fail, TryAgain, after_failure

RETRY = Retry(max_attempts=3, backoff=2.0, max_backoff=5.0)
AWAY = ModelError("away", code="provider_unavailable", retryable=True)


def decide(error: DspexError, attempt: int, chance: float = 0.0) -> TryAgain | Fail:
    return after_failure(error, attempt=attempt, max_attempts=3, retry=RETRY, chance=chance)


@pytest.mark.parametrize(("attempt", "chance", "delay"), [(1, 0.0, 2.0), (2, 0.0, 4.0), (1, 0.4, 1.8)])
def test_a_transient_failure_is_tried_again_later_and_later(attempt: int, chance: float, delay: float) -> None:
    decision = decide(AWAY, attempt, chance)
    assert isinstance(decision, TryAgain)
    assert decision.delay_seconds == pytest.approx(delay)


def test_the_wait_is_bounded_but_never_sooner_than_the_provider_asks() -> None:
    busy = ModelError("busy", code="rate_limited", retryable=True, retry_after=30)
    assert decide(busy, 1) == TryAgain(30.0)
    policy = Retry(max_attempts=9, backoff=2.0, max_backoff=5.0)
    assert after_failure(AWAY, attempt=8, max_attempts=9, retry=policy, chance=0.0) == TryAgain(5.0)


def test_a_permanent_failure_ends_it_at_once() -> None:
    refused = ModelError("no such key", code="authentication")
    assert decide(refused, 1) == Fail(refused)


def test_spent_attempts_end_it_with_the_last_cause() -> None:
    decision = decide(AWAY, 3)
    assert isinstance(decision, Fail)
    assert isinstance(decision.error, ExecutionFailed)
    assert decision.error.code == "attempts_exhausted"
    assert decision.error.cause.code == "provider_unavailable"
