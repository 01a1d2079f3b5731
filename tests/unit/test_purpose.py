"""The purpose of an execution as it is stored."""

from __future__ import annotations

from uuid import uuid4

from dspex.program.improvement.purpose import Purpose


def test_a_purpose_is_read_as_it_was_stored() -> None:
    purpose = Purpose(metric="exact", metric_seconds=2.0, dataset=uuid4(), row=7, budget="evaluation 1")
    assert Purpose.read(purpose.content) == purpose
    assert set(purpose.content) == {"metric", "metric_seconds", "dataset", "row", "budget"}
    replay = Purpose(replay=uuid4())
    assert Purpose.read(replay.content) == replay
    assert Purpose.read(None) == Purpose()
    assert Purpose.read({**replay.content, "newer": 1}) == replay
