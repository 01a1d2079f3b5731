"""What a worker counts: under bounded labels, and how attempts ended in the words of the documentation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from dspex.errors import DspexError, LeaseLost
from dspex.operations.bounded_labels import OTHER, Bounded
from dspex.store.lifecycle.executions import Claimed
from dspex.store.lifecycle.lm_calls import LMCall
from dspex.store.lifecycle.status import Status
from dspex.store.operations.health import Backlog
from workers.attempt.retry_policy import Deferred
from workers.observe import metrics
from workers.observe.metrics import MOST_WAITING, OUTCOMES, REGISTRY, Queue


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_the_first_names_have_labels_of_their_own_and_the_others_share_one() -> None:
    bounded = Bounded(2, lambda name: [name])
    assert [bounded[name] for name in ("a", "b", "c", "a", "d")] == [["a"], ["b"], [OTHER], ["a"], [OTHER]]
    assert len(bounded) == 3


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        (Status.COMPLETED, None, "completed"),
        (Status.FAILED, DspexError("no", code="bad"), "failed"),
        (Status.CANCELLED, DspexError("no", code="cancelled"), "cancelled"),
        (Status.QUEUED, DspexError("no", code="model_timeout"), "retried"),
        (Status.QUEUED, Deferred("later", code="rate_limited_locally"), "deferred"),
        (Status.QUEUED, None, "handed_back"),
        (None, LeaseLost("gone"), "discarded"),
    ],
)
def test_an_attempt_is_counted_by_how_it_ended(status: Status | None, error: DspexError | None, outcome: str) -> None:
    assert outcome in OUTCOMES
    before = value("dspex_attempts_total", program="qa", outcome=outcome)
    metrics.attempt_ended("qa", status, error, 0.2)
    assert value("dspex_attempts_total", program="qa", outcome=outcome) == before + 1


@pytest.mark.parametrize(("cost", "usd", "unpriced"), [(0.25, 0.25, 0), (0.0, 0.0, 0), (None, 0.0, 1)])
def test_a_call_without_a_known_price_is_counted_beside_the_cost(cost: float | None, usd: float, unpriced: int) -> None:
    names = ("dspex_lm_cost_usd_total", "dspex_lm_unpriced_calls_total")
    before = [value(name, model="m") for name in names]
    metrics.lm_call_ended(LMCall(uuid4(), b"", 0, 1, "m", "{}", 1, 1, cost, 5.0, None))
    assert [value(name, model="m") - was for name, was in zip(names, before, strict=True)] == [usd, unpriced]


def test_queue_time_is_from_when_it_was_due() -> None:
    now = datetime.now(UTC)
    due = now - timedelta(seconds=3)
    claimed = Claimed(uuid4(), "due", "v", 1, 3, 60.0, "{}", now - timedelta(days=1), due, now, uuid4())
    metrics.claimed(claimed)
    assert value("dspex_queue_time_seconds_sum", program="due") == pytest.approx(3)


def test_only_the_leader_tells_the_queue_and_only_of_so_many_programs() -> None:
    queue = Queue()
    assert list(queue.collect()) == []
    waiting = [Backlog(f"p{n}", 2, 1, float(n), float(n), paused=False, limited=False) for n in range(MOST_WAITING + 3)]
    queue.note(waiting, workers=4)
    depth, oldest, workers = queue.collect()
    assert {sample.labels["program"]: sample.value for sample in depth.samples}[OTHER] == 6
    assert sum(sample.value for sample in depth.samples) == 2 * len(waiting)
    assert max(sample.value for sample in oldest.samples) == MOST_WAITING + 2
    assert workers.samples[0].value == 4
    queue.forget()
    assert list(queue.collect()) == []
