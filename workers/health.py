"""Health: is everything there that executions need?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import redis
from sqlalchemy.exc import SQLAlchemyError

from dspex.broker import Broker, queue_keys
from dspex.errors import BackendUnavailable
from dspex.settings import Backends
from dspex.store import health, workers
from dspex.store.database import Database

__all__ = ["Component", "Report", "check_and_record"]

#: Work that has waited longer than this while workers are alive is a sign that something is stuck.
OLDEST_WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Component:
    """One part: ``healthy``, how long the check took, what was found, and what to do when it is not well."""

    healthy: bool
    latency_ms: float
    details: Mapping[str, Any]
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    components: Mapping[str, Component]

    @property
    def healthy(self) -> bool:
        return all(component.healthy for component in self.components.values())


def check_and_record(backends: Backends) -> Report:
    """Check every component and keep the result in Postgres. Raises BackendUnavailable when it cannot be kept."""
    database = Database(backends.database_url, pool_size=1, application_name="dspex health")
    broker = Broker(backends.broker_url, pool_size=1)
    try:
        report = _check(database, broker)
        components = {name: asdict(component) for name, component in report.components.items()}
        database.run(partial(health.record, healthy=report.healthy, worker_id=None, components=components))
        return report
    finally:
        broker.close()
        database.close()


def _check(database: Database, broker: Broker) -> Report:
    return Report(
        {
            "postgres": _timed(lambda: _postgres(database), "start Postgres, or correct DSPEX_DATABASE_URL"),
            "redis": _timed(lambda: _redis(broker), "start Redis, or correct DSPEX_BROKER_URL"),
            "workers": _timed(lambda: _workers(database), "start one with `dspex worker`, or mend what blocks it"),
            "queue": _timed(lambda: _queue(database), "start more workers, or see `dspex list --status running`"),
        }
    )


def _timed(check: Callable[[], tuple[bool, Mapping[str, Any]]], remedy: str) -> Component:
    began = time.perf_counter()
    try:
        healthy, details = check()
    except (BackendUnavailable, SQLAlchemyError, redis.RedisError, OSError) as error:
        healthy, details = False, {"error": str(error)}
    return Component(healthy, round((time.perf_counter() - began) * 1000, 3), details, "" if healthy else remedy)


def _postgres(database: Database) -> tuple[bool, Mapping[str, Any]]:
    return True, {
        "version": database.run(lambda connection: connection.exec_driver_sql("SHOW server_version").scalar())
    }


def _redis(broker: Broker) -> tuple[bool, Mapping[str, Any]]:
    with broker.client(socket_timeout=2) as client:
        info: Any = client.info("server")
        waiting = sum(int(client.llen(key)) for key in queue_keys())
        return True, {"version": info["redis_version"], "messages": waiting}


def _workers(database: Database) -> tuple[bool, Mapping[str, Any]]:
    alive = [w for w in database.run(workers.listing) if w["heartbeat_age_seconds"] < w["lease_seconds"]]
    troubled = {str(w["id"]): w["trouble"] for w in alive if w["trouble"]}
    details = {"alive": len(alive), "running": sum(w["running"] for w in alive), "troubled": troubled}
    return bool(alive) and not troubled, details


def _queue(database: Database) -> tuple[bool, Mapping[str, Any]]:
    found = database.run(health.queue)
    return found["oldest_wait_seconds"] < OLDEST_WAIT_SECONDS, found
