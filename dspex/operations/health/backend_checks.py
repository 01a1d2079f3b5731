"""The health checks of Postgres, Redis, and what is stored in them: workers, beat, pump, queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import redis
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from dspex.errors import BackendUnavailable, SchemaOutdated
from dspex.operations.health.check_groups import CHECK_SECONDS, CheckResult, CheckRound, ComponentGroup, HealthCheck
from dspex.operations.health.conditions import Component, Condition
from dspex.operations.health.language_checks import language_group
from dspex.publish.broker import Broker, queue_depth
from dspex.publish.key_types import KEY_TYPES, QUEUE_TYPES, set_aside_command, wrong_types
from dspex.publish.redis_refusals import refusal_fix, refusal_text, write_refusal
from dspex.settings import Backends
from dspex.store import migrate, workers
from dspex.store.database import Database
from dspex.store.facts import program_facts, server_facts
from dspex.store.lifecycle import parked
from dspex.store.operations import health
from dspex.store.operations.health import Backlog

__all__ = ["backend_groups", "client_check", "gap_seconds", "in_transaction"]

#: The queue is degraded if an execution that may run has waited longer.
LONG_WAIT_SECONDS = 300.0
#: The pump dispatches within a second if there is room. It is late after so many.
PUMP_LATE_SECONDS = 10.0
#: Beat is late after so many missing checks.
MISSED_CHECKS = 3
#: The queue lists so many programs: those that have waited longest.
MOST_PROGRAMS = 5
#: Statements time out in Postgres before the check does.
STATEMENT_SECONDS = CHECK_SECONDS * 0.8

START_POSTGRES = "start Postgres, or correct DSPEX_DATABASE_URL"
FIX_TROUBLE = (
    "see the log of the leader; `dspex audit verify` shows which entry of its trail keeps an execution from being "
    "changed: once the database's owner has removed it, the execution continues within a minute"
)
FIX_PROGRAMS = "install on these workers what the reason names and restart them, or deploy a version that they can run"
START_REDIS = "start Redis, or correct DSPEX_BROKER_URL"

Check = Callable[[Connection, dict[str, Any]], CheckResult]


def client_check(backends: Backends, *, interval_seconds: float) -> HealthCheck:
    """The health check of a producer. Beat is expected to check every ``interval_seconds``."""
    groups = [*backend_groups(backends, interval_seconds=interval_seconds), language_group()]
    return HealthCheck(groups, gap_seconds=gap_seconds(interval_seconds))


def gap_seconds(interval_seconds: float) -> float:
    """The longest time between two checks that shows no gap, if one is due every ``interval_seconds``."""
    return MISSED_CHECKS * interval_seconds + CHECK_SECONDS


def backend_groups(backends: Backends, *, interval_seconds: float, by_beat: bool = False) -> list[ComponentGroup]:
    """The groups that need Postgres and Redis.

    Beat is expected to check every ``interval_seconds``; ``by_beat``: this check is the one that it scheduled.
    """
    checks: dict[str, Check] = {
        "workers": _workers,
        "programs": _programs,
        "beat": lambda connection, facts: _beat(connection, facts, interval_seconds, by_beat),
        "pump": _pump,
        "queue": _queue,
    }
    return [
        ComponentGroup(("postgres", *checks), lambda round: _from_postgres(backends, round, checks), START_POSTGRES),
        ComponentGroup(("redis",), lambda round: _from_redis(backends, round), START_REDIS),
    ]


# ---------------------------------------------------------------------------------------------------------- Postgres


def _from_postgres(backends: Backends, round: CheckRound, checks: Mapping[str, Check]) -> None:
    """Check Postgres, then each of these, on a new connection: a pool could hide that Postgres accepts none."""
    database = Database(backends.database_url, pool_size=1, application_name="dspex health")

    def checked(check: Check) -> Callable[[], CheckResult]:
        return lambda: in_transaction(database, lambda connection: check(connection, round.facts))

    try:
        if not round.check("postgres", checked(_postgres)):
            return
        for name, check in checks.items():
            round.check(name, checked(check))
        checked(_performance)()
    finally:
        database.close()


def in_transaction(database: Database, check: Callable[[Connection], CheckResult]) -> CheckResult:
    """Run a check in a transaction with a statement timeout. A failure becomes an unhealthy result."""
    try:
        with database.transaction(statement_seconds=STATEMENT_SECONDS) as connection:
            return check(connection)
    except SchemaOutdated as error:
        return CheckResult(Condition.UNHEALTHY, {"error": str(error)}, "run `dspex migrate`")
    except (BackendUnavailable, SQLAlchemyError) as error:
        return CheckResult(Condition.UNHEALTHY, {"error": _first_line(error)}, START_POSTGRES)


def _postgres(connection: Connection, facts: dict[str, Any]) -> CheckResult:
    migrate.check(connection)
    found = server_facts.state(connection)
    details = {
        "version": found.version,
        "standby": found.standby,
        "max_connections": found.max_connections,
        "connections": found.connections,
    }
    if found.standby:
        return CheckResult(Condition.UNHEALTHY, details, "DSPEX_DATABASE_URL points to a standby: use the primary")
    if found.connections > 0.9 * found.max_connections:
        return CheckResult(Condition.DEGRADED, details, "raise max_connections, or use pgbouncer", found.up_seconds)
    return CheckResult(Condition.HEALTHY, details, up_seconds=found.up_seconds)


def _workers(connection: Connection, facts: dict[str, Any]) -> CheckResult:
    rows = workers.listing(connection)
    live = [row for row in rows if row["live"]]
    working = [row for row in live if row["state"] == "running"]
    silent = [row for row in rows if not row["live"]]
    versions = sorted({row["version"] for row in live})
    facts["workers"] = working
    facts["resources"] = {
        "process_count": len(live),
        "memory_bytes": sum(row["memory_bytes"] or 0 for row in live),
        "cpu": round(sum(row["cpu"] or 0.0 for row in live), 3),
    }
    details: dict[str, Any] = {
        "count": len(live),
        "running": sum(row["running"] for row in live),
        "concurrency": sum(row["concurrency"] for row in working),
        "versions": versions,
    }
    details |= {"stopping": stopping} if (stopping := [_name(row) for row in live if row not in working]) else {}
    details |= {"silent": [_name(row) for row in silent]} if silent else {}
    if troubled := {_name(row): row["trouble"] for row in live if row["trouble"]}:
        details["troubled"] = troubled
    if not working:
        return CheckResult(Condition.UNHEALTHY, details, "start a worker with `dspex worker`")
    if troubled:
        return CheckResult(Condition.DEGRADED, details, "fix the problem of each worker, or restart it")
    if silent:
        return CheckResult(
            Condition.DEGRADED, details, "find out why they died: other workers recover their executions"
        )
    if len(versions) > 1:
        return CheckResult(Condition.DEGRADED, details, "finish the rollout: workers of several versions are running")
    facts["served_seconds"] = workers.served_seconds(connection)
    return CheckResult(Condition.HEALTHY, details, up_seconds=facts["served_seconds"])


def _programs(connection: Connection, facts: dict[str, Any]) -> CheckResult:
    refused = program_facts.refused_versions(connection)
    details = {
        "unrunnable": [
            {
                "program": each.program,
                "version": each.version,
                "workers": "all" if each.by_all else list(each.workers),
                "waiting": each.held,
                "why": each.reason,
            }
            for each in refused[:MOST_PROGRAMS]
        ],
        "count": len(refused),
        "deployed": program_facts.deployed(connection),
    }
    return (
        CheckResult(Condition.DEGRADED, details, FIX_PROGRAMS) if refused else CheckResult(Condition.HEALTHY, details)
    )


def _name(worker: Mapping[str, Any]) -> str:
    return f"{worker['host']}:{worker['pid']}"


def _beat(connection: Connection, facts: dict[str, Any], interval_seconds: float, by_beat: bool) -> CheckResult:
    last = health.latest(connection)
    if last is None:
        if by_beat:
            return CheckResult(Condition.HEALTHY, {"interval_seconds": interval_seconds})
        return CheckResult(Condition.DEGRADED, {"last_check": None}, "run `dspex beat`")
    report = last["report"]
    interval = report.get("interval_seconds", interval_seconds)
    late = last["age_seconds"] > gap_seconds(interval)
    stored = {name: Component.from_dict(data) for name, data in report["components"].items()}
    if not late:
        facts["stored"] = stored
    facts["seen_by_workers"] = {name: each for name, each in stored.items() if each.details.get("seen_by")}
    details = {"last_check_age_seconds": round(last["age_seconds"], 1), "interval_seconds": interval}
    if late and not by_beat:
        fix = "run `dspex beat`; if it is running, check that workers consume the queue dspex.maintenance"
        facts["seen_by_workers"] = {name: _outdated(each) for name, each in facts["seen_by_workers"].items()}
        return CheckResult(Condition.DEGRADED, details, fix)
    return CheckResult(Condition.HEALTHY, details)


def _outdated(last: Component) -> Component:
    """A component whose last check by a worker is too old."""
    return Component(Condition.UNKNOWN, last.latency_ms, last.since, last.details, "see beat: the last check is old")


def _pump(connection: Connection, facts: dict[str, Any]) -> CheckResult:
    backlogs = facts["backlogs"] = health.backlogs(connection)
    leader = health.leader(connection, "pump")
    free = [backlog for backlog in backlogs if not backlog.held_back]
    late = max((backlog.undispatched_wait_seconds for backlog in free), default=0.0)
    details: dict[str, Any] = {"leader": None, "lag_seconds": round(late, 3)}
    if leader is not None:
        details["leader"] = f"{leader['host']}:{leader['pid']}"
    if leader is None or leader["overdue_seconds"] > 0:
        absent = PUMP_LATE_SECONDS + 1 if leader is None else leader["overdue_seconds"]
        worse = absent > PUMP_LATE_SECONDS
        condition = Condition.UNHEALTHY if worse else Condition.DEGRADED
        return CheckResult(condition, details | {"leader": None}, "start a worker: any worker can lead")
    if trouble := leader["trouble"]:
        return CheckResult(Condition.DEGRADED, details | trouble, FIX_TROUBLE)
    # The pump is not late while the window is full: Redis holds as much as the workers can take.
    room = sum(backlog.dispatched for backlog in backlogs) < sum(row["concurrency"] for row in facts.get("workers", ()))
    if late > PUMP_LATE_SECONDS and room:
        return CheckResult(Condition.DEGRADED, details, f"see the log of worker {details['leader']}, or restart it")
    return CheckResult(Condition.HEALTHY, details, up_seconds=facts.get("served_seconds"))


def _queue(connection: Connection, facts: dict[str, Any]) -> CheckResult:
    backlogs: Sequence[Backlog] = facts["backlogs"] if "backlogs" in facts else health.backlogs(connection)
    waiting = max((backlog.oldest_wait_seconds for backlog in backlogs), default=0.0)
    details = {
        "due": sum(backlog.due for backlog in backlogs),
        "counted_up_to": health.MOST_COUNTED,
        "dispatched": sum(backlog.dispatched for backlog in backlogs),
        "oldest_wait_seconds": round(waiting, 3),
        "programs": {
            backlog.program: {
                "due": backlog.due,
                "oldest_wait_seconds": round(backlog.oldest_wait_seconds, 3),
                "paused": backlog.paused,
            }
            for backlog in backlogs[:MOST_PROGRAMS]
        },
        "waiting": {
            wait.waiting_for: {"executions": wait.executions, "oldest_seconds": round(wait.oldest_seconds, 3)}
            for wait in parked.waits(connection)
        },
    }
    if any(backlog.oldest_wait_seconds > LONG_WAIT_SECONDS for backlog in backlogs if not backlog.held_back):
        return CheckResult(
            Condition.DEGRADED, details, "start more workers, or find out why they are slow: `dspex workers`"
        )
    return CheckResult(Condition.HEALTHY, details)


def _performance(connection: Connection, facts: dict[str, Any]) -> CheckResult:
    facts["performance"] = health.performance(connection)
    return CheckResult(Condition.HEALTHY)


# -------------------------------------------------------------------------------------------------------------- Redis


def _from_redis(backends: Backends, round: CheckRound) -> None:
    broker = Broker(backends.broker_url, pool_size=1)
    try:
        round.check("redis", lambda: _redis(broker))
    finally:
        broker.close()


def _redis(broker: Broker) -> CheckResult:
    try:
        with broker.client(socket_timeout=CHECK_SECONDS - 0.5) as client:
            return _writable_redis(client) or _primary_redis(client)
    except redis.exceptions.NoPermissionError:  # the ACL does not allow INFO, but Redis answers
        return CheckResult(Condition.HEALTHY)
    except redis.ResponseError as error:
        return CheckResult(Condition.UNHEALTHY, {"error": refusal_text(error)}, refusal_fix(error))
    except (redis.RedisError, OSError) as error:
        return CheckResult(Condition.UNHEALTHY, {"error": _first_line(error)}, START_REDIS)


def _writable_redis(client: redis.Redis) -> CheckResult | None:
    """What keeps messages from being written; None if nothing does."""
    wrong = _wrong_types(client)
    if (refusal := write_refusal(client)) is not None:
        return CheckResult(Condition.UNHEALTHY, {"refuses_writes": refusal_text(refusal)}, refusal_fix(refusal))
    return CheckResult(Condition.DEGRADED, {"wrong_types": wrong}, _rename(wrong)) if wrong else None


def _primary_redis(client: redis.Redis) -> CheckResult:
    waiting = queue_depth(client)
    info: Any = client.info()
    details = {"version": info["redis_version"], "messages": waiting, "memory_bytes": info["used_memory"]}
    if info["role"] != "master":
        return CheckResult(
            Condition.UNHEALTHY,
            details | {"role": info["role"]},
            "DSPEX_BROKER_URL points to a replica: use the primary",
        )
    return CheckResult(Condition.HEALTHY, details, up_seconds=info.get("uptime_in_seconds"))


def _wrong_types(client: redis.Redis) -> Mapping[str, str]:
    """Keys that have another type than DSPex gives them; of the queue alone where this user sees no others."""
    for types in (KEY_TYPES, QUEUE_TYPES):
        try:
            return wrong_types(client, types)
        except redis.exceptions.NoPermissionError:
            continue
    return {}


def _rename(keys: Iterable[str]) -> str:
    """What an operator does about keys of a wrong type if no worker does it within a second."""
    return f"find out what else writes to this Redis, and run: {'; '.join(map(set_aside_command, keys))}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
