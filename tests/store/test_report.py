"""The monitoring report: what it counts, and how it is written."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text

import dspex
from dspex.errors import ValidationError
from dspex.operations.report.dollars import dollars
from dspex.operations.report.html_page import page
from dspex.operations.report.markdown import markdown, sparkline
from dspex.operations.report.monitoring_report import BUCKETS, MonitoringReport, gather
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle.lm_calls import TOOL
from tests.store.test_executions import PROGRAM, claim, dispatch_due, register, settle, submit, triggers

METRICS = '{"cost_usd": 0.25, "prompt_tokens": 10, "completion_tokens": 5}'
ERROR = '{"code": "attempts_exhausted", "details": {"cause": {"code": "<rate_limited>"}}}'
EVENTS = '[{"kind":"signature_compilation","data":{"of":"\\u0000"}},{"kind":"submitted","data":{"kind":"none"}}]'


@pytest.fixture
def report(database: Database) -> MonitoringReport:
    """Of four executions: two completed, one failed, one queued."""
    database.run(partial(programs.deploy, program=PROGRAM))
    worker = register(database)
    ids = [submit(database, events=EVENTS) for _ in range(4)]
    dispatch_due(database)
    for claimed in claim(database, worker, *ids[:3]):
        settle(database, claimed, "failed" if claimed.id == ids[0] else "completed")
    with database.transaction() as connection:
        triggers(connection, "executions", "DISABLE")
        connection.execute(
            text("""UPDATE dspex.executions SET metrics = CAST(:metrics AS json),
                    error = CASE status WHEN 'failed' THEN CAST(:error AS json) END WHERE finished_at IS NOT NULL"""),
            {"metrics": METRICS, "error": ERROR},
        )
        triggers(connection, "executions", "ENABLE")
        connection.execute(
            text("""INSERT INTO dspex.alerts (rule, subject, state, value, threshold, summary, since, seen_at, fired_at)
                    VALUES ('error_rate', 'qa', 'firing', 1, 0, 'all failed', now(), now(), now())"""),
        )  # fmt: skip
    record_call(database, ids[0], "openai/a", 0.25)
    record_call(database, ids[1], f"{TOOL}weather", None)  # a tool of an agent, which is no model
    return gather(database, since=timedelta(hours=1))


def record_call(
    database: Database, id: UUID, model: str, cost_usd: float | None, list_cost_usd: float | None = None
) -> None:
    with database.transaction() as connection:
        connection.execute(
            text("""INSERT INTO dspex.lm_calls (execution_id, request_hash, occurrence, attempt, model, response,
                        prompt_tokens, completion_tokens, cost_usd, list_cost_usd, duration_ms)
                    VALUES (:id, '', 0, 1, :model, '{}', 10, 5, :cost_usd, :list_cost_usd, 1500)"""),
            {"id": id, "model": model, "cost_usd": cost_usd, "list_cost_usd": list_cost_usd},
        )


def test_it_counts_what_happened(report: MonitoringReport) -> None:
    assert (report.submitted, report.total.completed, report.total.failed, report.total.cancelled) == (4, 2, 1, 0)
    assert report.total.error_rate == pytest.approx(1 / 3)
    assert [(p.program, p.ended, p.cost_usd, p.prompt_tokens) for p in report.programs] == [("qa", 3, 0.75, 30)]
    assert report.errors == [{"program": "qa", "code": "<rate_limited>", "count": 1}]
    assert report.events == {"signature_compilation": 4, "submitted": 4, "claimed": 3, "completed": 2, "failed": 1}
    assert (report.events_detected, report.signature_compilation_events) == (14, 4)
    (model,) = report.models
    assert (model["model"], model["calls"], model["p95_seconds"]) == ("openai/a", 1, 1.5)
    assert report.workers["live"] == 1
    assert [alert.rule for alert in report.alerts] == ["error_rate"]
    assert len(report.trend.submitted) == BUCKETS
    assert (sum(report.trend.submitted), sum(report.trend.completed), sum(report.trend.failed)) == (4, 2, 1)


def test_its_page_has_no_marks_that_reverse_text(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    record_call(database, submit(database), "openai/\u202e001\u202c", 0.25)
    shown = page(gather(database, since=timedelta(hours=1)))
    assert "openai/001<" in shown
    assert "\u202e" not in shown


def test_it_is_written_as_json_markdown_and_a_page(report: MonitoringReport) -> None:
    data = json.loads(json.dumps(report.as_dict()))
    assert data["total"]["error_rate"] == pytest.approx(1 / 3)
    assert data["alerts"][0]["fix"].startswith("find the cause")
    written = markdown(report)
    assert "| failed | 1 (33.3%) |" in written
    assert "| qa | <rate_limited> | 1 |" in written
    shown = page(report)
    assert "&lt;rate_limited&gt;" in shown
    assert shown.count("<svg") == 4
    assert "http" not in shown, "it needs nothing from elsewhere"


def test_a_quiet_period_and_one_to_come(database: Database) -> None:
    quiet = gather(database, since=timedelta(minutes=1))
    assert (quiet.submitted, quiet.total.ended, quiet.programs) == (0, 0, [])
    assert "no execution ended" in page(quiet)
    assert "no model was called" in markdown(quiet)
    with pytest.raises(ValidationError, match="has no data yet"):
        gather(database, since=datetime(2999, 1, 1, tzinfo=UTC))


def test_dspex_own_executions_are_counted_only_on_request(report: MonitoringReport, database: Database) -> None:
    probe = dspex.Program("dspex-doctor", PROGRAM.signature, adapter="scripted")
    database.run(partial(programs.deploy, program=probe))
    id = submit(database, program=probe.name, version=probe.version, events=EVENTS)
    dispatch_due(database)
    (claimed,) = claim(database, register(database), id)
    settle(database, claimed)
    record_call(database, id, "openai/probe", None)
    again = gather(database, since=timedelta(hours=1))
    assert (again.left_out, again.submitted, again.total, again.models) == (1, 4, report.total, report.models)
    assert (again.programs, again.events, report.left_out) == (report.programs, report.events, 0)
    assert "1 of DSPex's own executions" in markdown(again)
    whole = gather(database, since=timedelta(hours=1), internal=True)
    assert (whole.left_out, whole.submitted, whole.total.completed) == (0, 5, 3)
    assert {program.program for program in whole.programs} == {"qa", "dspex-doctor"}
    assert {model["model"] for model in whole.models} == {"openai/a", "openai/probe"}
    assert whole.events["submitted"] == 5


def test_forged_entries_of_trails_stop_no_report(report: MonitoringReport, database: Database) -> None:
    for events in ("null", "7", '{"kind":"submitted"}', '["submitted"]'):
        submit(database, events=events)
    assert gather(database, since=timedelta(hours=1)).events == report.events


def test_an_unknown_cost_is_not_written_as_nothing(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    costs = {
        "known": {"lm_calls": 1, "cost_usd": 0.25, "unpriced_lm_calls": 0},
        "in part": {"lm_calls": 2, "cost_usd": 0.5, "unpriced_lm_calls": 1},
        "unknown": {"lm_calls": 1, "cost_usd": None, "unpriced_lm_calls": 1},
        "older": {"lm_calls": 1, "cost_usd": None},
        "no call": {"lm_calls": 0, "cost_usd": 0.0, "unpriced_lm_calls": 0},
    }
    ids = [submit(database) for _ in costs]
    dispatch_due(database)
    for claimed, metrics in zip(sorted(claim(database, register(database), *ids)), costs.values(), strict=True):
        settle(database, claimed, metrics=json.dumps(metrics))
    record_call(database, ids[0], "priced", 0.25, list_cost_usd=0.75)
    record_call(database, ids[2], "unpriced", None)
    report = gather(database, since=timedelta(hours=1))
    assert (report.total.cost_usd, report.total.unpriced) == (0.75, 3)
    assert [(m["model"], m["cost_usd"], m["unpriced"], m["saved_usd"]) for m in report.models] == [
        ("priced", 0.25, 0, 0.5), ("unpriced", None, 1, 0.0),
    ]  # fmt: skip
    written = markdown(report)
    assert "| cost | at least $0.7500 |" in written
    assert re.search(r"\| unpriced .*\| unknown \| – \|", written)
    assert re.search(r"\| priced .*\| \$0.2500 \| \$0.5000 \|", written)
    assert "$0.0000" not in written + page(report)


@pytest.mark.parametrize(
    ("cost", "unpriced", "written"),
    [
        (None, 0, "unknown"), (0.0, 3, "unknown"), (0.0, 0, "$0"), (0.25, 1, "at least $0.2500"), (0.25, 0, "$0.2500"),
        (0.0000123, 0, "$0.000012"), (0.00001, 0, "$0.000010"), (1234.5, 0, "$1,234.50"),
    ],
)  # fmt: skip
def test_an_amount(cost: float | None, unpriced: int, written: str) -> None:
    assert dollars(cost, unpriced) == written


def test_a_line_of_characters() -> None:
    assert sparkline([0, None, 1, 4, 8]) == "  ▂▅█"
    assert sparkline([]) == ""
