"""The estimate of a batch's cost: how often its interval has the truth, and its edges."""

from __future__ import annotations

import math
import random

import pytest

import dspex
from dspex.cli.batches.batch_run import CostLimit
from dspex.cli.batches.dry_run import confirmed_cost, estimate_text
from dspex.operations.report.batch_estimate import SampledRow, batch_estimate, spread_indexes


def test_the_interval_has_the_truth_in_95_of_100_samples() -> None:
    chance = random.Random(1)
    costs = [0.001 + chance.random() * 0.01 for _ in range(2_000)]
    hits = 0
    for _ in range(400):
        sample = [SampledRow(cost, 10, 1.0) for cost in chance.sample(costs, 20)]
        found = batch_estimate(sample, len(costs), slots=4, per_minute=None, model=None).cost_usd
        assert found is not None
        hits += found.low <= sum(costs) <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_sample_of_all_rows_is_exact() -> None:
    rows = [SampledRow(1.0, 5, 2.0), SampledRow(3.0, 7, 2.0)]
    found = batch_estimate(rows, 2, slots=2, per_minute=None, model="openai/gpt-5-mini")
    assert found.cost_usd is not None
    assert (found.cost_usd.value, found.cost_usd.low, found.cost_usd.high) == (4.0, 4.0, 4.0)
    assert found.tokens.value == 12
    assert found.seconds.value == 2.0
    assert {name: cost and cost.value for name, cost in found.routes.items()} == {"batch": 2.0, "flex": 2.0}
    other = batch_estimate(rows, 2, slots=2, per_minute=None, model="groq/llama")
    assert other.routes == {"batch": None, "flex": None}
    assert 'route="flex" unknown' in estimate_text(other)


def test_one_row_gives_no_upper_bound() -> None:
    found = batch_estimate([SampledRow(1.0, 5, 2.0)], 10, slots=1, per_minute=None, model=None)
    assert found.cost_usd is not None
    assert (found.cost_usd.value, found.cost_usd.low, found.cost_usd.high) == (10.0, 1.0, math.inf)
    assert found.routes == {}


def test_an_unknown_price_makes_the_cost_unknown() -> None:
    found = batch_estimate([SampledRow(1.0), SampledRow(None)], 10, slots=1, per_minute=None, model="openai/x")
    assert found.cost_usd is None
    assert found.routes == {}
    with pytest.raises(dspex.DspexError, match="--max-cost cannot be kept") as refused:
        confirmed_cost(found, 1.0, yes=True)
    assert refused.value.code == "cost_limit"


def test_failures_and_limits_count() -> None:
    rows = [SampledRow(0.0, 1, 1.0, "rate_limited"), *[SampledRow(0.0, 1, 1.0)] * 9]
    found = batch_estimate(rows, 600, slots=100, per_minute=60, model=None)
    assert found.causes == {"rate_limited": 1}
    assert found.failure_rate.low < 0.1 < found.failure_rate.high < 0.45
    assert found.seconds.low == 600.0, "60 a minute"


def test_the_sample_is_spread() -> None:
    assert spread_indexes(100, 4) == [12, 37, 62, 87]
    assert spread_indexes(3, 20) == [0, 1, 2]
    assert spread_indexes(0, 20) == []


@pytest.mark.parametrize("most", [0.5, 1.0, 7.7, 100.0])
def test_the_cost_stops_at_the_limit(most: float) -> None:
    chance = random.Random(7)
    costs = [chance.uniform(0.0, 0.2) for _ in range(500)]
    limit, spent, done, groups = CostLimit(most, 0.1), 0.0, 0, 0
    while group := limit.group(len(costs) - done, spent, done):
        spent += sum(costs[done : done + group])
        done += group
        groups += 1
    assert spent <= most + 0.2 or done == len(costs), "a row may cost twice the mean"
    assert spent > most - 0.5 or done == len(costs)
    assert groups < 15
