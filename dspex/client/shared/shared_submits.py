"""Submits of several callers: one statement stores them, and one message carries the ids of a program and urgency."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Row

from dspex.errors import BackendUnavailable
from dspex.publish.broker import Broker, lane
from dspex.publish.envelope import message_size
from dspex.settings.failpoints import AFTER_INSERT, BEFORE_INSERT, failpoint
from dspex.store.batching.gathering import Gathering
from dspex.store.database import Database
from dspex.store.lifecycle import executions
from dspex.store.lifecycle.executions import Submission

__all__ = ["SharedSubmits", "Stored", "Submits"]

log = logging.getLogger("dspex")

#: What a submit comes to: a row with ``created_at``; None when nothing was stored (see executions.insert_all).
Stored = Row[Any] | None

#: The most submits of a statement, and the most text in all of them. A larger submit goes by itself.
SUBMITS_MOST = 100
TEXT_MOST = 256 * 1024
#: How long a statement that others wait for waits for a lock: a user's transaction may hold an idempotency key.
LOCK_TIMEOUT = "250ms"


class Submits(Gathering[Submission, Stored]):
    """The submits that wait."""

    def __init__(self) -> None:
        super().__init__(SUBMITS_MOST, weight=_text, most_weight=TEXT_MOST)


def _text(submission: Submission) -> int:
    return len(submission.inputs) + len(submission.metadata or "")


class SharedSubmits:
    """Stores and publishes the submits of a batch."""

    def __init__(self, database: Database, broker: Broker) -> None:
        self._database = database
        self._broker = broker

    def store(self, submissions: Sequence[Submission], aside: bool) -> Sequence[Stored]:
        """Store all of them with one statement. Raises its error, having stored none.

        Unless it goes ``aside``, others wait for the statement, so that it does not wait long for a lock.
        """
        failpoint(BEFORE_INSERT)
        insert = partial(executions.insert_all, submissions=submissions, lock_timeout=None if aside else LOCK_TIMEOUT)
        rows = self._database.run_in_batch(insert)
        failpoint(AFTER_INSERT)
        return [rows.get(submission.id) for submission in submissions]

    def publish(self, submissions: Sequence[Submission], rows: Sequence[Stored]) -> None:
        """Publish those that are not left to the pump. If that fails it is logged: the rows are the outbox."""
        published = [
            (s, row) for s, row in zip(submissions, rows, strict=True) if row is not None and row.dispatched_at
        ]
        if not published:
            return
        _, row = published[0]
        size = message_size(len(submissions), workers=row.workers, smallest=row.smallest, least=1)
        groups: defaultdict[tuple[int, str], list[Submission]] = defaultdict(list)
        for submission, _ in published:
            groups[lane(submission.priority, bulk=False), submission.program].append(submission)
        for (_, program), group in sorted(groups.items()):
            for begin in range(0, len(group), size):
                self._publish_one(program, group[begin : begin + size])

    def _publish_one(self, program: str, group: Sequence[Submission]) -> None:
        try:
            self._broker.publish([s.id for s in group], program=program, priority=group[0].priority)
        except BackendUnavailable as error:
            log.warning("%s", error)
