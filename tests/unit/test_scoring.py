"""Metrics and the statistics of scores."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

import dspex
from dspex.scoring.judges import judge_inputs, judge_of
from dspex.scoring.score_statistics import paired_difference, sign_test
from workers.actions.scoring import score_of


def test_metrics_compare_the_outputs_that_have_labels() -> None:
    example = {"question": "?", "answer": "The Eiffel Tower", "count": 3}
    assert dspex.metrics.exact(example, {"answer": " The Eiffel Tower ", "extra": 1}) == 1.0
    assert dspex.metrics.exact(example, {"answer": "The Eiffel Tower", "count": 4}) == 0.0
    assert dspex.metrics.contains(example, {"answer": "It is the eiffel tower.", "count": 4}) == 0.5
    assert dspex.metrics.numeric({"count": "3.0"}, {"count": 3}) == 1.0
    assert dspex.metrics.numeric({"count": 3}, {"count": "three"}) == 0.0
    assert dspex.metrics.f1(example, {"answer": "the tower"}) == pytest.approx(0.8)
    assert dspex.metrics.f1({"answer": ""}, {"answer": ""}) == 1.0
    with pytest.raises(ValueError, match="no label has the name of an output"):
        dspex.metrics.exact({"question": "?"}, {"answer": "x"})


@pytest.mark.parametrize(
    ("returned", "score", "feedback"),
    [
        (True, 1.0, None),
        (0.25, 0.25, None),
        ({"score": 1, "feedback": "good"}, 1.0, "good"),
        (type("Scored", (), {"score": 0.5, "feedback": "half"})(), 0.5, "half"),
    ],
)
def test_a_score_is_a_number_or_has_one(returned: Any, score: float, feedback: str | None) -> None:
    assert score_of(returned) == (score, feedback)


class Broken:
    """What a metric may return that cannot be read."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __float__(self) -> float:
        raise RuntimeError("of the user's")

    __str__ = __float__  # type: ignore[assignment]


@pytest.mark.parametrize(
    "returned",
    [None, "1.0", float("nan"), {"feedback": "?"}, object(), 10**400, 1e300, -math.inf, Broken(),
     Broken(score=Broken()), Broken(score=1.0, feedback=Broken()), {"score": [1.0]}, 1j],
)  # fmt: skip
def test_what_is_no_score_is_refused(returned: Any) -> None:
    with pytest.raises(dspex.ActionFailed) as refused:
        score_of(returned)
    assert refused.value.code == "metric_no_score"


def test_the_sign_test_is_exact() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 5) == 1.0
    assert sign_test(0, 5) == pytest.approx(2 / 32)
    assert sign_test(9, 1) == pytest.approx(2 * (1 + 10) / 1024)
    assert 0 < sign_test(2600, 2400) < 0.01


def test_a_large_difference_is_more_than_noise_and_a_small_one_is_not() -> None:
    clear = paired_difference([1.0] * 20 + [0.0] * 30 + [-1.0] * 2)
    assert clear.is_more_than_noise
    assert (clear.better, clear.worse, clear.same) == (20, 2, 30)
    assert clear.low < clear.mean < clear.high
    assert clear == paired_difference([1.0] * 20 + [0.0] * 30 + [-1.0] * 2), "the same each time"
    assert not paired_difference([1.0, 1.0, -1.0, 0.0]).is_more_than_noise
    assert not paired_difference([1.0]).is_more_than_noise, "one row proves nothing"
    assert paired_difference([0.1 + 0.2 - 0.3]).same == 1


def test_the_interval_of_many_pairs_is_that_of_the_normal_distribution() -> None:
    found = paired_difference([1.0, 0.0, 0.0, -0.5] * 300)
    assert found.mean == 0.125
    assert found.low == pytest.approx(0.125 - 1.96 * 0.5449 / 1200**0.5, abs=1e-4)
    assert found.high == pytest.approx(0.125 + 1.96 * 0.5449 / 1200**0.5, abs=1e-4)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_claims() -> None:
    chance = random.Random(4)
    covered = 0
    for _ in range(30):
        found = paired_difference([chance.gauss(0.1, 0.5) for _ in range(30)])
        covered += found.low <= 0.1 <= found.high
    assert 25 <= covered <= 30


def test_a_judge_is_named_by_its_program_and_finds_its_inputs_by_name() -> None:
    assert judge_of(dspex.metrics.judge("fair")) == ("fair", None)
    assert judge_of(dspex.metrics.judge("fair", "0123456789abcdef")) == ("fair", "0123456789abcdef")
    assert judge_of("judge:fair") is None, "a function of a module named judge"
    names = ["ticket", "queue", "expected_queue", "missing"]
    given = judge_inputs(names, {"ticket": "t"}, {"queue": "bug"}, {"queue": "other"})
    assert given == {"ticket": "t", "queue": "other", "expected_queue": "bug"}
