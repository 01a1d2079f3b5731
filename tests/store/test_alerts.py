"""Alerts: what is found, what follows, and what each channel sends, on a real database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from dspex.errors import AlertNotDelivered
from dspex.operations.alerts import alert_evaluation
from dspex.operations.alerts.alert import Notice
from dspex.operations.alerts.alert_evaluation import deliver, list_alerts
from dspex.settings import Settings
from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.lifecycle import executions
from dspex.store.operations import alerts, figures
from tests.store.test_dispatch import rows_read
from tests.store.test_executions import (
    PROGRAM,
    claim,
    dispatch_due,
    register,
    settle,
    submission,
    submit,
    triggers,
)

BREACH = {"rule": "error_rate", "subject": "qa", "value": 0.5, "threshold": 0.05, "summary": "half of them failed"}
DEATH = {"rule": "dead_workers", "subject": "", "value": 1.0, "threshold": 0.0, "summary": "1 stopped"}
DAY = timedelta(days=1)


class RecordingChannel:
    """A channel that takes down what it is told, or fails."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.fails = False

    def send(self, notices: Sequence[Notice]) -> str:
        if self.fails:
            raise AlertNotDelivered("the mail server is away")
        self.notices.extend(notices)
        return "here"

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(notice.event, notice.alert.rule) for notice in self.notices]


@pytest.fixture
def now(database: Database) -> datetime:
    moment: datetime = database.run(lambda connection: connection.scalar(text("SELECT clock_timestamp()")))
    return moment


def note(database: Database, at: datetime, *found: Mapping[str, Any], **changed: Any) -> Mapping[str, int]:
    given: dict[str, Any] = {"channels": ["log"], "sudden": ["dead_workers"], "after_seconds": 60.0,
                             "reminder_seconds": None}  # fmt: skip
    with database.transaction() as connection:
        assert alerts.try_lock(connection)
        return alerts.note(connection, found, at=at, **{**given, **changed})


def states(database: Database) -> list[tuple[str, str]]:
    return [(alert.rule, alert.state) for alert in list_alerts(database, resolved_within=DAY)]


def test_what_lasts_fires_once_and_resolves_once(database: Database, now: datetime) -> None:
    def at(seconds: float) -> datetime:
        return now + timedelta(seconds=seconds)

    assert note(database, at(0), BREACH) == {"fired": 0, "resolved": 0}
    assert states(database) == [("error_rate", "pending")]
    assert note(database, at(59), BREACH)["fired"] == 0
    assert note(database, at(60), {**BREACH, "value": 0.7, "summary": "more of them"})["fired"] == 1
    assert note(database, at(90), BREACH) == {"fired": 0, "resolved": 0}
    assert note(database, at(120)) == {"fired": 0, "resolved": 0}, "away, but not for long"
    assert note(database, at(130), BREACH) == {"fired": 0, "resolved": 0}, "it flutters, and is told once"
    assert note(database, at(189)) == {"fired": 0, "resolved": 0}
    assert note(database, at(190))["resolved"] == 1
    assert note(database, at(220)) == {"fired": 0, "resolved": 0}
    told = RecordingChannel()
    assert deliver(database, {"log": told}) == (2, {})
    assert told.events == [("firing", "error_rate"), ("resolved", "error_rate")]
    assert told.notices[0].line == "FIRING error_rate qa: more of them", "the words of then"
    assert deliver(database, {"log": told}) == (0, {}), "nothing is told twice"
    (alert,) = list_alerts(database, resolved_within=DAY)
    assert (alert.since, alert.fired_at, alert.resolved_at) == (at(0), at(60), at(190))
    assert alert.fix.startswith("find the cause: `dspex list --status failed --program qa`")
    assert note(database, at(300), BREACH)["fired"] == 0, "a new one"
    assert states(database) == [("error_rate", "pending"), ("error_rate", "resolved")]


def test_what_does_not_last_is_forgotten_and_what_cannot_be_taken_back_fires_at_once(
    database: Database, now: datetime
) -> None:
    assert note(database, now, BREACH, DEATH)["fired"] == 1
    note(database, now + timedelta(seconds=30), DEATH)
    assert states(database) == [("dead_workers", "firing")]


def test_breaches_of_whole_numbers_and_parts_are_recorded_together(database: Database, now: datetime) -> None:
    backlog = {"rule": "backlog", "subject": "", "value": 1200, "threshold": 1000, "summary": "1200 wait"}
    assert note(database, now, BREACH, backlog) == {"fired": 0, "resolved": 0}
    found = {alert.rule: (alert.value, alert.threshold) for alert in list_alerts(database, resolved_within=DAY)}
    assert found == {"error_rate": (0.5, 0.05), "backlog": (1200.0, 1000.0)}


def test_reminders_are_sent_if_a_setting_asks_for_them(database: Database, now: datetime) -> None:
    given: dict[str, Any] = {"after_seconds": 0.0, "reminder_seconds": 600.0}
    assert note(database, now, BREACH, **given) == {"fired": 1, "resolved": 0, "reminded": 0}
    assert note(database, now + timedelta(seconds=599), BREACH, **given)["reminded"] == 0
    assert note(database, now + timedelta(seconds=600), BREACH, **given)["reminded"] == 1
    assert note(database, now + timedelta(seconds=601), BREACH, **given)["reminded"] == 0


def test_a_channel_that_fails_keeps_its_notifications_and_stops_no_other(database: Database, now: datetime) -> None:
    log, email = RecordingChannel(), RecordingChannel()
    email.fails = True
    told_by = {"email": email, "log": log}
    sudden: dict[str, Any] = {"channels": list(told_by), "after_seconds": 0.0}
    note(database, now, BREACH, **sudden)
    assert deliver(database, told_by) == (1, {"email": "the mail server is away"})
    assert log.events == [("firing", "error_rate")]
    (alert,) = list_alerts(database, resolved_within=DAY)
    assert (alert.undelivered, alert.delivery_error) == (1, "email: the mail server is away")

    email.fails = False
    assert deliver(database, told_by) == (0, {}), "not at once"
    note(database, now + timedelta(seconds=1), **sudden)
    assert deliver(database, told_by)[0] == 3, "what is new brings along what is late"
    assert email.events == [("firing", "error_rate"), ("resolved", "error_rate")], "in order"
    (alert,) = list_alerts(database, resolved_within=DAY)
    assert (alert.undelivered, alert.delivery_error) == (0, None)


def test_a_delivery_that_was_claimed_and_never_made_is_made_by_another(database: Database, now: datetime) -> None:
    note(database, now, DEATH)
    assert len(database.run(partial(alerts.claim, channel="log"))) == 1
    told = RecordingChannel()
    assert deliver(database, {"log": told}) == (0, {}), "somebody is at it"
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.alert_deliveries SET claimed_until = clock_timestamp()"))
    assert deliver(database, {"log": told}) == (1, {})


def test_evaluations_at_once_fire_and_notify_once(database: Database) -> None:
    settings = Settings.load(alert_after_seconds=0)
    with database.transaction() as connection:
        workers.register(connection, id=uuid7(), host="h", pid=7, version="0", concurrency=1, lease_seconds=5)
        connection.execute(text("UPDATE dspex.workers SET heartbeat_at = now() - interval '1 minute'"))
    told = RecordingChannel()

    def once(_: int) -> None:
        alert_evaluation.evaluate(database, settings)
        deliver(database, {"log": told})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(once, range(12)))
    assert told.events == [("firing", "dead_workers")]
    assert told.notices[0].alert.summary == "1 worker died in 5 min: h:7"


def test_the_figures_are_those_of_what_ended_lately(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    worker = register(database)
    ids = [submit(database) for _ in range(4)]
    dispatch_due(database)
    for claimed in claim(database, worker, *ids):
        settle(database, claimed, "failed" if claimed.id in ids[:3] else "completed")
    with database.transaction() as connection:
        triggers(connection, "executions", "DISABLE")
        connection.execute(
            text("""UPDATE dspex.executions
                    SET started_at = finished_at - interval '4 s', metrics = '{"cost_usd": 0.5}',
                        error = CASE WHEN status = 'failed' THEN CAST(:error AS json) END"""),
            {"error": '{"code": "attempts_exhausted", "details": {"cause": {"code": "rate_limited"}}}'},
        )
        connection.execute(
            text("""UPDATE dspex.executions SET finished_at = now() - interval '40 min',
                    error = '{"code": "poisoned"}' WHERE id = :id"""), {"id": ids[0]},
        )  # fmt: skip
        triggers(connection, "executions", "ENABLE")
        connection.execute(text("UPDATE dspex.workers SET memory_bytes = 3 * 1048576"))
    submit(database)
    read = database.run(partial(figures.read, window_seconds=300, cost=True))
    assert read.programs == [
        figures.ProgramFigures("qa", ended=3, failed=2, poisoned=0, p95_seconds=4.0,
                               commonest_error="rate_limited", cost_per_hour_usd=2.0)
    ]  # fmt: skip
    (backlog,) = read.backlogs
    assert (backlog.program, backlog.due) == ("qa", 1)
    (memory,) = read.memory
    assert memory.memory_mb == 3
    assert (read.dead, read.health) == ([], None)
    lately = database.run(partial(figures.read, window_seconds=300, cost=False))
    assert lately.programs[0].cost_per_hour_usd == pytest.approx(1.5), "of the window only"


def test_what_an_evaluation_reads_does_not_grow_with_history(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    with database.transaction() as connection:
        executions.copy(connection, [submission() for _ in range(3000)])
        triggers(connection, "executions", "DISABLE")
        connection.execute(
            text("""UPDATE dspex.executions SET status = 'completed', started_at = now() - interval '1 day',
                    finished_at = now() - CASE WHEN id IN (SELECT id FROM dspex.executions LIMIT 20)
                        THEN interval '1 minute' ELSE interval '1 day' END""")
        )
        triggers(connection, "executions", "ENABLE")
        connection.execute(text("ANALYZE dspex.executions"))
        given = {"at": datetime.now(UTC), "window_seconds": 300, "horizon_seconds": 300, "cost_seconds": 300,
                 "most": figures.MOST_RECENT}  # fmt: skip
        (plan,) = connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {figures.RECENT}"), given).scalar_one()
    assert max(rows_read(plan["Plan"])) <= 20


def test_a_notification_that_a_channel_refuses_delays_no_other_and_no_other_channel(
    database: Database, now: datetime
) -> None:
    class Picky(RecordingChannel):
        def send(self, notices: Sequence[Notice]) -> str:
            if any("half" in notice.alert.summary for notice in notices):
                raise ValueError("Header values may not contain linefeed")
            return super().send(notices)

    given: dict[str, Any] = {"channels": ["email", "log"], "sudden": ["dead_workers", "error_rate"]}
    note(database, now, BREACH, DEATH, **given)
    picky, other = Picky(), RecordingChannel()
    sent, failures = deliver(database, {"email": picky, "log": other})
    assert (sent, picky.events, len(other.events)) == (3, [("firing", "dead_workers")], 2)
    assert failures == {"email": "its content cannot be sent: Header values may not contain linefeed"}


def test_a_breach_that_cannot_be_stored_delays_no_other(database: Database, now: datetime) -> None:
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE dspex.alerts ADD CHECK (subject <> 'qa')"))
    assert note(database, now, BREACH, DEATH, sudden=["dead_workers", "error_rate"])["fired"] == 1
