"""Datasets: versions by content, rows in order, parts, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.store.database import Database

ROWS = [{"ticket": f"number {n}", "queue": "bug" if n % 2 else "other"} for n in range(50)]


def stored_rows(database: Database) -> int:
    return int(database.run(lambda c: c.scalar(text("SELECT count(*) FROM dspex.dataset_rows"))) or 0)


def test_the_same_rows_are_the_same_version(client: Client, database: Database) -> None:
    first = client.dataset("tickets", ROWS, inputs=["ticket"])
    again = client.dataset("tickets", ({"queue": r["queue"], "ticket": r["ticket"]} for r in ROWS), inputs=["ticket"])
    assert (first.version, len(first)) == (again.version, 50)
    assert stored_rows(database) == 50
    other = client.dataset("tickets", ROWS[:-1], inputs=["ticket"])
    assert other.version != first.version
    assert client.dataset("tickets").version == other.version, "the newest"
    assert len(client.dataset("tickets", version=first.version)) == 50
    assert [(each.name, len(each)) for each in client.datasets()] == [("tickets", 49), ("tickets", 50)]
    assert client.dataset("tickets", ROWS, inputs=["queue"]).version != first.version, "other inputs"


def test_rows_are_read_in_order_and_by_place(client: Client) -> None:
    dataset = client.dataset("tickets", ROWS, inputs=["ticket"])
    assert [{**row.inputs, **row.labels} for row in dataset] == ROWS
    assert dataset[7].inputs == {"ticket": "number 7"}
    assert [row.index for row in dataset[10:13]] == [10, 11, 12]
    assert dataset[-1].index == 49


def test_a_split_depends_on_content_alone(client: Client) -> None:
    train, rest = client.dataset("tickets", ROWS, inputs=["ticket"]).split(0.8)
    assert (len(train), len(rest)) == (40, 10)
    assert sorted([*train.indexes, *rest.indexes]) == list(range(50))
    shuffled, _ = client.dataset("tickets", ROWS[::-1], inputs=["ticket"]).split(0.8)
    assert {row.inputs["ticket"] for row in train} == {row.inputs["ticket"] for row in shuffled}


def test_examples_and_files_come_back(client: Client, tmp_path: Path) -> None:
    dataset = client.dataset("tickets", ROWS, inputs=["ticket"])
    example = dataset.examples()[3]
    assert (example.ticket, example.queue, set(example.inputs().keys())) == ("number 3", "bug", {"ticket"})
    dataset.to_jsonl(tmp_path / "out.jsonl")
    assert client.dataset("tickets", tmp_path / "out.jsonl", inputs=["ticket"]).version == dataset.version


def test_rows_that_do_not_fit_are_named_and_nothing_is_stored(client: Client, database: Database) -> None:
    rows: list[dict[str, Any]] = [*ROWS[:5], {"ticket": "x"}, {**ROWS[0], "extra": 1}, {"ticket": {1}, "queue": "bug"}]
    with pytest.raises(dspex.ValidationError) as refused:
        client.dataset("tickets", rows, inputs=["ticket"])
    assert [fault.path for fault in refused.value.errors] == ["rows[5]", "rows[6]", "rows[7]"]
    for inputs in (None, ["nothing"], []):
        with pytest.raises(dspex.ValidationError):
            client.dataset("tickets", ROWS, inputs=inputs)
    for name in ("two words", ""):
        with pytest.raises(dspex.ValidationError):
            client.dataset(name, ROWS, inputs=["ticket"])
    with pytest.raises(dspex.ValidationError):
        client.dataset("tickets", [], inputs=["ticket"])
    with pytest.raises(dspex.ValidationError):
        client.dataset("tickets")
    assert stored_rows(database) == 0


def test_a_source_that_fails_stores_nothing(client: Client, database: Database) -> None:
    def failing() -> Iterator[dict[str, str]]:
        yield from ROWS
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        client.dataset("tickets", failing(), inputs=["ticket"])
    assert stored_rows(database) == 0
