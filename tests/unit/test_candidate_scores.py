"""The scores of an optimiser's candidates, from metrics that work and metrics that do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
import pytest

from dspex.errors import ActionFailed, BackendUnavailable, DspexError
from tests.waiting import wait_for
from workers.adapters.dspy.improvement.candidate_scores import CandidateScores

EXAMPLES = [dspy.Example(question=str(n), answer=str(n % 2)).with_inputs("question") for n in range(4)]


def predicted(version: str, answer: str) -> dspy.Prediction:
    prediction = dspy.Prediction(answer=answer)
    prediction._dspex_version = version
    return prediction


def is_right(example: Any, prediction: Any) -> bool:
    return bool(example.answer == prediction.answer)


async def half(example: Any, prediction: Any, trace: Any, pred_name: Any, pred_trace: Any) -> Mapping[str, Any]:
    return {"score": 0.5, "feedback": "half"}


def silent(example: Any, prediction: Any, trace: Any = None) -> None:
    """Forgets to return its score."""


def raising(*arguments: Any) -> float:
    raise KeyError("secret")


def refusing(*arguments: Any) -> float:
    raise DspexError("no", code="model_not_allowed")


def hanging(example: Any, prediction: Any) -> float:
    time.sleep(0.2)
    return 1.0


async def blocking(example: Any, prediction: Any) -> float:
    time.sleep(0.2)  # noqa: ASYNC251 - as a user's mistake
    return 1.0


def test_rows_with_the_same_inputs_and_other_labels_have_scores_of_their_own() -> None:
    scores = CandidateScores(is_right, 5)
    for answer in ("0", "1"):
        example = dspy.Example(question="?", answer=answer).with_inputs("question")
        scores.metric(example, predicted("first", "0"))
    assert scores.score("first") == 0.5
    assert [each["examples"] for each in scores.listing({})] == [2]


def test_the_best_candidate_is_one_of_those_that_were_tried_on_all_examples() -> None:
    scores = CandidateScores(is_right, 5)
    for example in EXAMPLES:
        assert scores.metric(example, predicted("first", "0")) is (example.answer == "0")
    scores.metric(EXAMPLES[0], predicted("lucky", "0"))
    scores.metric(EXAMPLES[0], dspy.Prediction(answer="0"))
    assert scores.score("first") == 0.5
    assert scores.score("unknown") is None
    assert scores.best(len(EXAMPLES)) == "first"
    assert scores.listing({"lucky": ["first"]}) == [
        {"version": "first", "score": 0.5, "examples": 4, "parents": []},
        {"version": "lucky", "score": 1.0, "examples": 1, "parents": ["first"]},
    ]
    scores.require()


def test_a_coroutine_with_five_arguments_is_a_metric() -> None:
    scores = CandidateScores(half, 5)
    assert scores.metric(EXAMPLES[0], predicted("one", "0")) == {"score": 0.5, "feedback": "half"}
    assert scores.score("one") == 0.5


@pytest.mark.parametrize(
    ("metric", "code"),
    [
        (silent, "metric_no_score"), (raising, "metric_error"), (refusing, "model_not_allowed"),
        (hanging, "metric_timeout"), (blocking, "metric_timeout"),
    ],
)  # fmt: skip
def test_a_metric_that_only_fails_is_the_error_of_the_job(metric: Any, code: str) -> None:
    scores = CandidateScores(metric, 0.05 if metric in (hanging, blocking) else 5)
    with pytest.raises(DspexError) as failed:
        scores.metric(EXAMPLES[0], predicted("one", "0"))
    assert failed.value.code == code
    assert "secret" not in str(failed.value)
    with pytest.raises(DspexError) as failed:
        scores.require()
    assert failed.value.code == code
    wait_for(lambda: "metric" not in {thread.name for thread in threading.enumerate()}, "the thread to end")


def test_a_metric_that_fails_for_one_example_is_not_the_error_of_the_job() -> None:
    def odd(example: Any, prediction: Any) -> float | None:
        return None if example.question == "1" else 1.0

    scores = CandidateScores(odd, 5)
    for example in EXAMPLES:
        if example.question == "1":
            with pytest.raises(ActionFailed):
                scores.metric(example, predicted("one", "0"))
        else:
            scores.metric(example, predicted("one", "0"))
    scores.require()
    assert scores.listing({})[0]["examples"] == 3


def test_new_scores_are_published_while_the_search_goes_on() -> None:
    scores = CandidateScores(is_right, 5)
    shown: list[Sequence[Mapping[str, Any]]] = []
    is_away = threading.Event()

    def publish(listed: Sequence[Mapping[str, Any]]) -> None:
        if not is_away.is_set():
            is_away.set()
            raise BackendUnavailable("Postgres is away")
        shown.append(listed)

    with scores.published(publish, every=0.01):
        scores.metric(EXAMPLES[0], predicted("one", "0"))
        wait_for(is_away.is_set, "the first time, which fails")
        scores.metric(EXAMPLES[1], predicted("one", "0"))
        wait_for(lambda: shown, "the second time")
    assert shown == [[{"version": "one", "score": 0.5, "examples": 2, "parents": []}]]
