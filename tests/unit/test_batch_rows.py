"""Batches as arithmetic: ids, rows that are missing, sets of indexes."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.client.batch import Progress, slots
from dspex.store.lifecycle.batch_ids import batch_number, execution_id, new_batch_id
from dspex.submit.batch_rows import BatchRows
from dspex.submit.bulk import chunks
from dspex.wait.completion import IndexSet


def test_the_id_of_an_execution_tells_its_batch_and_row() -> None:
    batch_id = new_batch_id()
    for index in (0, 1, 2**32 - 3):
        id = execution_id(batch_id, index)
        assert (id.version, id.variant) == (7, UUID(int=batch_id.int).variant)
        assert id.int - batch_id.int - 1 == index
        assert batch_number(id.int) == batch_id.int
    assert str(execution_id(new_batch_id(), 0)) > str(execution_id(batch_id, 10**6))


@given(st.integers(0, 60), st.sets(st.integers(0, 59)))
def test_a_batch_knows_its_rows_without_a_list(size: int, missing: set[int]) -> None:
    missing = {index for index in missing if index < size}
    batch = BatchRows(new_batch_id(), "qa", size=size, missing=sorted(missing))
    expected = [index for index in range(size) if index not in missing]
    assert len(batch) == len(expected)
    assert list(batch.indexes) == expected
    assert [batch.indexes[position] for position in range(len(batch))] == expected
    assert batch.indexes[2:5] == expected[2:5]
    assert [id.int - batch.id.int - 1 for id in batch.ids] == expected
    assert [slot.index for group in slots(batch, skip={3}) for slot in group] == [i for i in expected if i != 3]
    with pytest.raises(IndexError):
        batch.indexes[len(expected)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 19))), st.booleans())
def test_an_index_set_is_a_set(changes: list[tuple[bool, int]], full: bool) -> None:
    indexes, model = IndexSet(20, full=full), set(range(20)) if full else set()
    for adding, index in changes:
        assert (indexes.add if adding else indexes.discard)(index) == ((index not in model) == adding)
        (model.add if adding else model.discard)(index)
    assert list(indexes) == sorted(model)
    assert len(indexes) == len(model)
    assert {index for index in range(-1, 21) if index in indexes} == model


def test_rows_are_taken_in_groups() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []
    long = [{"text": "x" * 2**20}] * 20
    assert [len(chunk) for chunk in chunks(long)] == [4] * 5, "long texts are stored a few at a time"


@pytest.mark.parametrize(
    ("counts", "per_second", "eta"),
    [
        ({"queued": 10}, 0.0, None),
        ({"queued": 10, "completed": 5}, 2.0, 5.0),
        ({"running": 1, "failed": 1}, 0.5, 2.0),
        ({"completed": 9, "cancelled": 1}, 3.0, 0.0),
    ],
)
def test_progress(counts: dict[str, int], per_second: float, eta: float | None) -> None:
    progress = Progress.of(
        {"counts": counts, "cost_usd": 0.25, "unpriced": 2, "bundled": 0, "saved_usd": 0.0, "per_second": per_second}
    )
    assert progress.total == sum(counts.values())
    assert progress.eta_seconds == eta
    assert (progress.cost_usd, progress.unpriced) == (0.25, 2)
