"""Looking up which executions are final: questions that are asked at the same time share a query."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from dspex.store.batching.gathering import Gathering
from dspex.store.database import Database
from dspex.store.lifecycle import executions
from dspex.wait.driver import Row

__all__ = ["Questions", "final_rows"]

#: A question about more executions has a query of its own.
SHARED_IDS = 100
#: The most questions of a query.
QUESTIONS_MOST = 500


class Questions(Gathering[Sequence[UUID], Sequence[Row]]):
    """The questions that wait: each is the ids of some executions, its answer the rows of the final ones."""

    def __init__(self) -> None:
        super().__init__(QUESTIONS_MOST, weight=_ids_beyond_one, most_weight=SHARED_IDS)


def _ids_beyond_one(ids: Sequence[UUID]) -> int:
    return len(ids) - 1


def final_rows(database: Database, questions: Sequence[Sequence[UUID]]) -> Sequence[Sequence[Row]]:
    """The answer to each of the questions."""
    ids = {id for asked in questions for id in asked}
    found = database.run_in_batch(partial(executions.find_many, ids=ids, final=True))
    if len(questions) == 1:
        return [found]
    rows = {row["id"]: row for row in found}
    return [[rows[id] for id in asked if id in rows] for asked in questions]
