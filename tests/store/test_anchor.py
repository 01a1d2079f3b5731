"""Anchors: what was final when one was made does not change, however it is rewritten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from dspex.errors import DspexError
from dspex.operations.audit import anchor
from dspex.operations.audit.anchor import Anchor, Comparison
from dspex.operations.audit.verify_audit import verify_trails
from dspex.store.audit_chain import entry_hash, hash_of_values
from dspex.store.database import Database
from dspex.store.lifecycle import control
from tests.store.test_audit_binding import worker_id  # noqa: F401 - a fixture
from tests.store.test_executions import claim, dispatch_due, settle, submit, trail, triggers
from tests.store.test_retention import KEEP_AUDIT, completed, count, old_id, run
from tests.store.test_retention import worker_id as of_retention  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions of tests are over before the next begins."""
    monkeypatch.setattr(anchor, "SETTLED_SECONDS", 0)


def ended(database: Database, worker: UUID, number: int, *, ids: Sequence[UUID] = ()) -> list[UUID]:
    made = [submit(database) for _ in range(number)] or list(ids)
    for claimed in claim(database, worker, *made):
        assert settle(database, claimed, "failed", error='{"code":"x"}')
    return made


def compared(database: Database, made: Anchor) -> Comparison:
    (comparison,) = anchor.compare(database, [made])
    return comparison


def rewrite(database: Database, id: UUID) -> None:
    """As only the owner can: another outcome, and a trail that fits it."""
    events = trail(database, id)
    *_, before, last = events.entries
    outcome = hash_of_values('{"answer":"forged"}', None, "{}", None, None)
    digest = entry_hash(
        before.hash, id, last.seq, last.attempt, last.at, last.events.replace("failed", "completed"),
        outcome_hash=outcome,
    )  # fmt: skip
    given: dict[str, Any] = {"id": id, "seq": last.seq, "hash": digest, "outcome": outcome}
    with database.transaction() as connection:
        for table in ("executions", "audit_events"):
            triggers(connection, table, "DISABLE")
        for statement in (
            """UPDATE dspex.executions SET status = 'completed', error = NULL, result = '{"answer":"forged"}',
               audit_hash = :hash WHERE id = :id""",
            """UPDATE dspex.audit_events SET hash = :hash, outcome_hash = :outcome,
               events = replace(events::text, 'failed', 'completed')::json WHERE execution_id = :id AND seq = :seq""",
        ):
            names = {name: value for name, value in given.items() if f":{name}" in statement}
            connection.execute(text(statement), names)
        for table in ("executions", "audit_events"):
            triggers(connection, table, "ENABLE")


def test_an_owners_rewriting_differs_from_the_anchor(database: Database, worker_id: UUID) -> None:  # noqa: F811
    ids = ended(database, worker_id, 3)
    submit(database)
    made = anchor.make(database)
    assert (made.executions, compared(database, made).as_anchored) == (3, 3)
    rewrite(database, ids[1])
    assert list(verify_trails(database)) == [], "the trail fits what was forged"
    (fault,) = compared(database, made).differs
    assert "the trails of its 3 executions are not those that were anchored" in fault


def test_what_happens_later_leaves_an_anchor_as_it_was(database: Database, worker_id: UUID) -> None:  # noqa: F811
    ids = ended(database, worker_id, 2)
    made = anchor.make(database)
    ended(database, worker_id, 2)
    assert database.run(partial(control.retry, ids=ids[:1])) == ids[:1]
    assert compared(database, made) == Comparison(made, 2, [], [])
    dispatch_due(database)
    ended(database, worker_id, 0, ids=ids[:1])
    again = anchor.make(database)
    assert again.executions == 4
    assert [each.differs for each in anchor.compare(database, [made, again])] == [[], []]


def test_an_execution_that_is_gone_or_came_from_nowhere_differs(database: Database, worker_id: UUID) -> None:  # noqa: F811
    ids = ended(database, worker_id, 2)
    made = anchor.make(database)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    with database.transaction() as connection:
        triggers(connection, "audit_events", "DISABLE")
        for table, key in (("executions", "id"), ("audit_events", "execution_id")):
            connection.execute(text(f"DELETE FROM dspex.{table} WHERE {key} = :id"), {"id": ids[0]})
        triggers(connection, "audit_events", "ENABLE")
    assert compared(database, made).differs == [f"{day}: 2 executions were anchored, there are 1"]
    nothing = Anchor(made.made_at, made.before, {})
    assert compared(database, nothing).differs == [f"{day}: 0 executions were anchored, there are 1"]


def test_what_retention_removed_is_not_known(database: Database, of_retention: UUID) -> None:  # noqa: F811
    completed(database, of_retention, [old_id(n) for n in range(3)])
    submit(database, id=old_id(9))
    made = anchor.make(database)
    assert made.executions == 3
    run(database, **KEEP_AUDIT)
    assert count(database, "executions") == 1
    assert compared(database, made) == Comparison(made, 3, [], []), "their trails are kept"
    run(database, retention_days=30)
    (day,) = made.days
    unknown = [f"{day}: 3 executions were anchored, 0 trails are left: retention removed the others"]
    assert compared(database, made) == Comparison(made, 0, [], unknown)


def test_a_file_of_anchors_is_read_as_it_was_written(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    days = {"2026-11-26": anchor.DayDigest(2, "ab"), "2026-11-25": anchor.DayDigest(1, "cd")}
    made = [Anchor(now - timedelta(days=1), now - timedelta(days=1), {}), Anchor(now, now, days)]
    path = tmp_path / "anchors.jsonl"
    for each in made:
        anchor.append(path, each)
    assert anchor.read(path) == made
    changed = json.loads(path.read_text().splitlines()[1])
    changed["days"]["2026-11-26"][1] = "ff"
    for text_, why in (
        (json.dumps(changed), "was changed"),
        ("", "empty"),
        ("{}", "does not declare"),
        ("[", "not a file of anchors"),
    ):
        path.write_text(text_)
        with pytest.raises(DspexError, match=why):
            anchor.read(path)
    with pytest.raises(DspexError, match="cannot be written"):
        anchor.append(tmp_path, made[0])
