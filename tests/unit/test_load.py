"""Load shapes and what bounds a deployment, from what was measured."""

from __future__ import annotations

import math

import pytest

from dspex.operations.bench import load
from dspex.operations.bench.bottleneck import Look, bottlenecks
from dspex.operations.bench.load import Floor, Sample, Shape

SERVED = Shape(1, 1.0, [Sample("1", 5.0)])
FAILED = Shape(1, 1.0, [Sample(None, 5.0, error="provider_unavailable")])


@pytest.mark.parametrize(("limit", "found"), [(200, 200), (73, 73), (10, 10), (9, 0)])
async def test_the_most_users_are_found_by_bisection(limit: int, found: int) -> None:
    tried = []

    async def trial(count: int) -> Shape:
        tried.append(count)
        return SERVED if count <= limit else FAILED

    assert await load.most_users(trial) == found
    assert len(tried) <= 8


def test_a_shape_tells_its_figures() -> None:
    samples = [Sample(str(n), float(n), queue_ms=2.0, execution_ms=1.0) for n in range(1, 101)]
    shape = Shape(10, 2.0, [*samples, Sample(None, 1000.0, error="deadline_exceeded")])
    assert shape.throughput == 50.0
    assert shape.error_rate == pytest.approx(1 / 101)
    assert (shape.percentile_ms(50), shape.percentile_ms(99), shape.percentile_ms(100)) == (51.0, 100.0, 1000.0)
    assert (shape.queue_ms, shape.execution_ms) == (2.0, 1.0)
    assert shape.drift > 0
    assert [floor.met for floor in load.floors(shape)] == [True, True, True]


def test_a_floor_says_how_many_times_over_it_is_met() -> None:
    assert Floor("results/s", 50.0, 25.0, at_least=True).factor == 2.0
    assert Floor("mean wait, ms", 500.0, 5_000.0).factor == 10.0
    assert Floor("errors", 0.0, 0.01).factor == math.inf
    assert not Floor("results/s", 24.0, 25.0, at_least=True).met


def look(**seen: object) -> Look:
    usual = {
        "workers": 1, "concurrency": 10, "running": 2, "commit_ms": 1.0, "redis_ms": 0.2, "own_cpu": 0.1,
        "machine_cpu": 0.3, "worker_cpu": {7: 0.2}, "worker_mb": {7: 100.0},
    }  # fmt: skip
    return Look(**{**usual, **seen})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "model", "what", "evidence"),
    [
        ({"workers": 0, "worker_cpu": {}}, None, "no worker is alive", "none has a lease"),
        (
            {"running": 10},
            0.99,
            "the workers' slots are full",
            "10 of 10 executions at once were running; model calls take 99%",
        ),
        ({"worker_cpu": {7: 0.97}}, None, "the workers' CPU is used up", "1 of 1 worker processes"),
        ({"own_cpu": 0.98}, None, "the producer's CPU is used up", "98% of a core"),
        ({"machine_cpu": 0.99}, None, "this machine's CPU is used up", "99% of its"),
        ({"commit_ms": 40.0}, None, "Postgres is slow", "40.0 ms"),
        ({"redis_ms": 9.0}, None, "Redis is slow", "9.0 ms"),
        ({}, 0.95, "the model", "model calls take 95% of an execution's"),
        ({}, None, "the load", "nothing was full: 2 of 10 slots"),
    ],
)
def test_a_bound_is_named_with_its_evidence(
    seen: dict[str, object], model: float | None, what: str, evidence: str
) -> None:
    found = bottlenecks([look(**seen)] * 3, SERVED, model)
    assert [finding.what for finding in found] == [what]
    assert evidence in found[0].evidence
