"""The guard of a rollout, and which submits a rollout gets."""

from __future__ import annotations

from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

import dspex
from dspex.program.improvement.rollout_guard import Guard, RolloutFigures
from dspex.store.improvement.rollouts import RolloutShare

PROGRAM = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")


@pytest.mark.parametrize(
    ("guard", "figures", "tripped"),
    [
        (Guard(), RolloutFigures(ended=100, failed=100), None),
        (Guard(max_error_rate=0.1), RolloutFigures(ended=19, failed=19), None),
        (Guard(max_error_rate=0.1), RolloutFigures(ended=20, failed=2), None),
        (Guard(max_error_rate=0.1), RolloutFigures(ended=20, failed=3), "max_error_rate"),
        (Guard(min_score=0.8), RolloutFigures(scored=19, score=0.1), None),
        (Guard(min_score=0.8), RolloutFigures(scored=20, score=0.79), "min_score"),
        (Guard(min_score=0.8), RolloutFigures(scored=20, score=0.8), None),
        (Guard(max_cost_ratio=1.5), RolloutFigures(20, 0, 0.16, 20, 0.1), "max_cost_ratio"),
        (Guard(max_cost_ratio=1.5), RolloutFigures(20, 0, 0.14, 20, 0.1), None),
        (Guard(max_cost_ratio=1.5), RolloutFigures(20, 0, 0.16, 3, 0.1), None),
        (Guard(max_cost_ratio=1.5), RolloutFigures(20, 0, None, 20, 0.1), None),
    ],
)
def test_a_guard_trips_once_there_is_enough_to_judge_by(
    guard: Guard, figures: RolloutFigures, tripped: str | None
) -> None:
    found = guard.tripped_by(figures)
    assert (found and found[0]) == tripped


def test_wrong_values_of_a_guard_are_faults() -> None:
    wrong = Guard(max_error_rate=2, min_score="high", max_cost_ratio=-1, min_executions=0)  # type: ignore[arg-type]
    assert [fault.path.removeprefix("guard.") for fault in wrong.faults()] == [
        "max_error_rate", "min_score", "max_cost_ratio", "min_executions",
    ]  # fmt: skip


def test_a_share_is_exact_and_one_key_is_always_on_one_side() -> None:
    share = RolloutShare(UUID(int=3), 10.0, PROGRAM)
    keys = [f"order-{number}" for number in range(10_000)]
    chosen = {key for key in keys if share.chosen(key) is not None}
    assert 820 < len(chosen) < 1180, "six standard errors are 180"
    assert chosen == {key for key in keys if share.chosen(key) is not None}
    assert 820 < sum(share.chosen(None) is not None for _ in range(10_000)) < 1180
    other = RolloutShare(UUID(int=7), 10.0, PROGRAM)
    assert chosen != {key for key in keys if other.chosen(key) is not None}, "not the same customers each time"
    assert all(RolloutShare(uuid7(), 100.0, PROGRAM).chosen(key) for key in keys[:100])
    assert RolloutShare(uuid7(), 100.0, None).chosen("x") is None
