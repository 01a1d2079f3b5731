"""How what is due is cut into messages."""

from __future__ import annotations

import pytest

from dspex.publish.envelope import message_size
from dspex.store.workers import FleetCapacity


@pytest.mark.parametrize(
    ("count", "fleet", "size"),
    [
        (400, FleetCapacity(1, 200, 200), 100),
        (40, FleetCapacity(1, 200, 200), 20),
        (100, FleetCapacity(10, 2000, 200), 5),
        (80, FleetCapacity(10, 40, 4), 2),
        (1, FleetCapacity(2, 400, 200), 1),
    ],
    ids=["a full window", "a round of it", "each worker gets some", "small workers", "one"],
)
def test_messages_are_large_but_leave_no_worker_without(count: int, fleet: FleetCapacity, size: int) -> None:
    assert message_size(count, workers=fleet.count, smallest=fleet.smallest, least=2) == size
