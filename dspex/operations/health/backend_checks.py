"""What a health check asks of Postgres and of Redis; see dspex/operations/health/conditions.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from dspex.errors import BackendUnavailable, SchemaOutdated
from dspex.operations.health.conditions import CHECK_SECONDS, Component, Condition, Found, Group, HealthCheck, Round
from dspex.operations.health.language_checks import language_group
from dspex.publish.broker import Broker, queue_depth
from dspex.settings import Backends
from dspex.store import migrate, workers
from dspex.store.database import Database
from dspex.store.facts import server_facts
from dspex.store.operations import health
from dspex.store.operations.health import Backlog

__all__ = ["backend_groups", "client_check", "in_transaction"]

#: Work that has waited so long, although nothing was to hold it back, is told.
LONG_WAIT_SECONDS = 300.0
#: The pump dispatches within a second what it has room for: so late, it does not.
PUMP_LATE_SECONDS = 10.0
#: How often a check by beat may be missing.
MISSED_CHECKS = 3
#: So many programs are told of the queue, those that wait longest.
PROGRAMS_TOLD = 5
#: Postgres gives up on a statement of ours before we do.
STATEMENT_SECONDS = CHECK_SECONDS * 0.8

START_POSTGRES = "start Postgres, or correct DSPEX_DATABASE_URL"
START_REDIS = "start Redis, or correct DSPEX_BROKER_URL"

Ask = Callable[[Connection, dict[str, Any]], Found]


def client_check(backends: Backends, *, interval_seconds: float) -> HealthCheck:
    """Everything that a producer can see; beat is to check every ``interval_seconds``."""
    return HealthCheck([*backend_groups(backends, interval_seconds=interval_seconds), language_group()])


def backend_groups(backends: Backends, *, interval_seconds: float, by_beat: bool = False) -> list[Group]:
    """The groups that ask Postgres and Redis. Beat is to check every ``interval_seconds``, and does so ``by_beat``."""
    asks: dict[str, Ask] = {
        "workers": _workers,
        "beat": lambda connection, facts: _beat(connection, facts, interval_seconds, by_beat),
        "pump": _pump,
        "queue": _queue,
    }
    return [
        Group(("postgres", *asks), lambda round: _from_postgres(backends, round, asks), START_POSTGRES),
        Group(("redis",), lambda round: _from_redis(backends, round), START_REDIS),
    ]


# ---------------------------------------------------------------------------------------------------------- Postgres


def _from_postgres(backends: Backends, round: Round, asks: Mapping[str, Ask]) -> None:
    """Ask Postgres, and then each of these, on a connection of their own: a pool would hide that none is to be had."""
    database = Database(backends.database_url, pool_size=1, application_name="dspex health")

    def asked(ask: Ask) -> Callable[[], Found]:
        return lambda: in_transaction(database, lambda connection: ask(connection, round.facts))

    try:
        if not round.ask("postgres", asked(_postgres)):
            return
        for name, ask in asks.items():
            round.ask(name, asked(ask))
        asked(_performance)()
    finally:
        database.close()


def in_transaction(database: Database, ask: Callable[[Connection], Found]) -> Found:
    """What is found within the time that a statement may take; a failure is found, too."""
    try:
        with database.transaction(statement_seconds=STATEMENT_SECONDS) as connection:
            return ask(connection)
    except SchemaOutdated as error:
        return Found(Condition.UNHEALTHY, {"error": str(error)}, "run `dspex migrate`")
    except (BackendUnavailable, SQLAlchemyError) as error:
        return Found(Condition.UNHEALTHY, {"error": _first_line(error)}, START_POSTGRES)


def _postgres(connection: Connection, facts: dict[str, Any]) -> Found:
    migrate.check(connection)
    found = server_facts.state(connection)
    details = {
        "version": found.version,
        "standby": found.standby,
        "max_connections": found.max_connections,
        "connections": found.connections,
    }
    if found.standby:
        return Found(Condition.UNHEALTHY, details, "DSPEX_DATABASE_URL leads to a standby: use the primary")
    if found.connections > 0.9 * found.max_connections:
        return Found(Condition.DEGRADED, details, "raise max_connections, or put pgbouncer in between")
    return Found(Condition.HEALTHY, details)


def _workers(connection: Connection, facts: dict[str, Any]) -> Found:
    rows = workers.listing(connection)
    live = [row for row in rows if row["heartbeat_age_seconds"] < row["lease_seconds"]]
    working = [row for row in live if row["state"] == "running"]
    silent = [row for row in rows if row["heartbeat_age_seconds"] >= row["lease_seconds"]]
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
        return Found(Condition.UNHEALTHY, details, "start a worker with `dspex worker`")
    if troubled:
        return Found(Condition.DEGRADED, details, "mend what is said of each, or restart it")
    if silent:
        return Found(Condition.DEGRADED, details, "find out why they died: their work is recovered by the others")
    if len(versions) > 1:
        return Found(Condition.DEGRADED, details, "finish the rollout: workers of several versions are running")
    return Found(Condition.HEALTHY, details)


def _name(worker: Mapping[str, Any]) -> str:
    return f"{worker['host']}:{worker['pid']}"


def _beat(connection: Connection, facts: dict[str, Any], interval_seconds: float, by_beat: bool) -> Found:
    last = health.latest(connection)
    if last is None:
        if by_beat:
            return Found(Condition.HEALTHY, {"interval_seconds": interval_seconds})
        return Found(Condition.DEGRADED, {"last_check": None}, "run `dspex beat`")
    report = last["report"]
    stored = {name: Component.from_dict(data) for name, data in report["components"].items()}
    facts["stored"] = stored
    facts["told"] = {name: told for name, told in stored.items() if told.details.get("seen_by")}
    interval = report.get("interval_seconds", interval_seconds)
    details = {"last_check_age_seconds": round(last["age_seconds"], 1), "interval_seconds": interval}
    if not by_beat and last["age_seconds"] > MISSED_CHECKS * interval + CHECK_SECONDS:
        remedy = "run `dspex beat`; if it runs, see whether workers consume the queue dspex.maintenance"
        facts["told"] = {name: _outdated(told) for name, told in facts["told"].items()}
        return Found(Condition.DEGRADED, details, remedy)
    return Found(Condition.HEALTHY, details)


def _outdated(told: Component) -> Component:
    """What a worker saw too long ago to be relied on."""
    return Component(Condition.UNKNOWN, told.latency_ms, told.since, told.details, "see beat: the last look is old")


def _pump(connection: Connection, facts: dict[str, Any]) -> Found:
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
        return Found(condition, details | {"leader": None}, "start a worker: any of them takes the lead")
    # A full window is no lateness: there is as much in Redis as the workers can take.
    room = sum(backlog.dispatched for backlog in backlogs) < sum(row["concurrency"] for row in facts.get("workers", ()))
    if late > PUMP_LATE_SECONDS and room:
        return Found(Condition.DEGRADED, details, f"see the log of worker {details['leader']}, or restart it")
    return Found(Condition.HEALTHY, details)


def _queue(connection: Connection, facts: dict[str, Any]) -> Found:
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
            for backlog in backlogs[:PROGRAMS_TOLD]
        },
    }
    if any(backlog.oldest_wait_seconds > LONG_WAIT_SECONDS for backlog in backlogs if not backlog.held_back):
        return Found(Condition.DEGRADED, details, "start more workers, or see what holds them: `dspex workers`")
    return Found(Condition.HEALTHY, details)


def _performance(connection: Connection, facts: dict[str, Any]) -> Found:
    facts["performance"] = health.performance(connection)
    return Found(Condition.HEALTHY)


# -------------------------------------------------------------------------------------------------------------- Redis


def _from_redis(backends: Backends, round: Round) -> None:
    broker = Broker(backends.broker_url, pool_size=1)
    try:
        round.ask("redis", lambda: _redis(broker))
    finally:
        broker.close()


def _redis(broker: Broker) -> Found:
    try:
        with broker.client(socket_timeout=CHECK_SECONDS - 0.5) as client:
            waiting = queue_depth(client)
            info: Any = client.info()
    except redis.exceptions.NoPermissionError:  # an ACL without INFO: it answers, and that is what matters
        return Found(Condition.HEALTHY)
    except (redis.RedisError, OSError) as error:
        return Found(Condition.UNHEALTHY, {"error": _first_line(error)}, START_REDIS)
    details = {"version": info["redis_version"], "messages": waiting, "memory_bytes": info["used_memory"]}
    if info["role"] != "master":
        return Found(Condition.UNHEALTHY, details | {"role": info["role"]}, "DSPEX_BROKER_URL leads to a replica")
    return Found(Condition.HEALTHY, details)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
