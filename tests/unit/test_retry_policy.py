"""What becomes of a model call or an attempt that failed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from dspex import errors
from dspex.errors import DspexError, ExecutionFailed, ModelError, ProgramError, ValidationError
from dspex.program.program import Retry
from workers.adapters import AdapterUnavailable
from workers.adapters.unrunnable import RUNS_ELSEWHERE
from workers.attempt.fallback import may_fall_back
from workers.attempt.retry_policy import (
    LONGEST_PAUSE_SECONDS,
    WITHIN_ATTEMPT,
    Fail,
    TryAgain,
    after_failure,
    backoff_seconds,
    is_transient,
)
from workers.lm.model_errors import RULES

RETRY = Retry(max_attempts=3, backoff=2.0, max_backoff=5.0)
AWAY = ModelError("away", code="provider_unavailable", retryable=True)

#: Every way a model call can fail, and where it is tried again: in the attempt, by another attempt, or nowhere.
WHERE = {
    ("provider_unavailable", True): "in the attempt",
    ("rate_limited", True): "in the attempt",
    ("model_timeout", True): "in the attempt",
    ("output_unparseable", True): "another attempt",
    ("provider_unavailable", False): "nowhere",  # a certificate that cannot be verified
    ("authentication", False): "nowhere",
    ("billing", False): "nowhere",
    ("content_filtered", False): "nowhere",
    ("context_window_exceeded", False): "nowhere",
    ("invalid_request", False): "nowhere",
    ("model_error", False): "nowhere",
    ("unsupported", False): "nowhere",
}


def decide(error: DspexError, attempt: int, chance: float = 0.0) -> TryAgain | Fail:
    return after_failure(error, attempt=attempt, max_attempts=3, retry=RETRY, chance=chance)


def where(error: DspexError) -> str:
    if is_transient(error):
        assert isinstance(decide(error, 1), TryAgain)  # and then by another attempt
        return "in the attempt"
    return "another attempt" if isinstance(decide(error, 1), TryAgain) else "nowhere"


@pytest.mark.parametrize(("code", "retryable"), WHERE)
def test_where_a_failed_model_call_is_tried_again(code: str, retryable: bool) -> None:
    assert where(ModelError("failed", code=code, retryable=retryable)) == WHERE[code, retryable]


def test_every_code_of_a_model_call_has_its_place() -> None:
    importlib.import_module("workers.adapters.dspy.engine_bridge")  # brings the rules of DSPy's own errors
    outside_the_table = {("content_filtered", False)}  # raised by the engine itself
    assert {(rule.code, rule.retryable) for rule in RULES.values()} | outside_the_table == set(WHERE)


def family(root: type[DspexError]) -> Iterator[type[DspexError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


def test_no_other_error_is_tried_again_in_the_attempt_and_few_at_all() -> None:
    classes = {cls for cls in family(DspexError) if cls.__module__ == errors.__name__} | {AdapterUnavailable}
    again = {cls for cls in classes if where(cls("failed")) == "another attempt"}
    assert not [cls for cls in classes if where(cls("failed")) == "in the attempt"]
    assert again == {
        AdapterUnavailable,
        errors.AlertNotDelivered,
        errors.BackendUnavailable,
        errors.ExecutionTimedOut,
        errors.ProgramUnreadable,
        errors.RateLimited,
        errors.ResultNotReady,
    }


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (ValidationError("bad outputs", code="output_invalid", retryable=True), "another attempt"),
        (DspexError("too long", code="deadline_exceeded", retryable=True), "another attempt"),
        (ValidationError("bad inputs"), "nowhere"),
        (ProgramError("a bug"), "nowhere"),
        (DspexError("says it is", code="rate_limited", retryable=True), "another attempt"),  # no model call
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_where_an_attempt_is_made_again(error: DspexError, place: str) -> None:
    assert where(error) == place


@pytest.mark.parametrize("code", ["adapter_unavailable", "code_not_found", "program_unreadable"])
def test_an_attempt_that_another_worker_can_make_does_not_count(code: str) -> None:
    decision = decide(DspexError("not here", code=code), attempt=3)
    assert isinstance(decision, TryAgain)
    assert not decision.counts


#: The failures after which the next of several adapters is tried. Every other one it would meet too.
NEXT_ADAPTER = {
    "adapter_unavailable",
    "code_not_found",
    "context_window_exceeded",
    "output_invalid",
    "output_unparseable",
    "unsupported",
}


def test_where_the_next_adapter_is_tried() -> None:
    codes = (
        {code for code, _ in WHERE}
        | {"output_invalid", "deadline_exceeded", "budget_exceeded", "not_storable"}
        | RUNS_ELSEWHERE
    )
    codes |= {cls.code for cls in family(DspexError) if cls.__module__.split(".")[0] in ("dspex", "workers")}
    assert {code for code in codes if may_fall_back(DspexError("failed", code=code))} == NEXT_ADAPTER


@pytest.mark.parametrize(("about", "helps"), [(["response_format"], True), (["temperature"], False), ([], False)])
def test_a_refused_request_falls_back_when_its_form_is_refused(about: list[str], helps: bool) -> None:
    assert may_fall_back(ModelError("refused", code="invalid_request", mentions=about)) is helps
    assert not may_fall_back(ModelError("refused", code="invalid_request"))


def test_within_an_attempt_no_wait_of_ours_is_too_long_for_it() -> None:
    waits = [backoff_seconds(AWAY, attempt=n, retry=WITHIN_ATTEMPT, chance=0.0) for n in (1, 2)]
    assert waits == [0.5, 1.0]
    assert WITHIN_ATTEMPT.max_backoff <= LONGEST_PAUSE_SECONDS


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


def test_attempts_that_did_not_count_make_no_wait_longer() -> None:
    """Handed back twice: the fourth attempt is the second that counts."""
    assert after_failure(AWAY, attempt=4, max_attempts=5, retry=RETRY, chance=0.0) == TryAgain(4.0)


def test_a_permanent_failure_ends_it_at_once() -> None:
    refused = ModelError("no such key", code="authentication")
    assert decide(refused, 1) == Fail(refused)


def test_spent_attempts_end_it_with_the_last_cause() -> None:
    decision = decide(AWAY, 3)
    assert isinstance(decision, Fail)
    assert isinstance(decision.error, ExecutionFailed)
    assert decision.error.code == "attempts_exhausted"
    assert decision.error.cause.code == "provider_unavailable"


def test_attempts_that_were_handed_back_or_came_before_an_operators_retry_make_no_wait_longer() -> None:
    fresh = after_failure(AWAY, attempt=7, max_attempts=9, retry=RETRY, chance=0.0)
    assert fresh == decide(AWAY, 1) == TryAgain(2.0)
    assert after_failure(AWAY, attempt=1, max_attempts=9, retry=RETRY, chance=0.0) == TryAgain(2.0)
