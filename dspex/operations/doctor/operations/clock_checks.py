"""Clocks: this machine, Postgres and Redis agree about the time."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis as redis_py

from dspex.operations.doctor.check import CheckVerdict, Finding, Need, check, met
from dspex.operations.doctor.deployment import Deployment
from dspex.store.facts import server_facts

#: A difference that shows in the times people compare, and one that misleads, in seconds.
NOTICED, MISLEADS = 1.0, 10.0
NTP = "synchronise both machines by NTP (chrony, systemd-timesyncd)"


@check("This machine and Postgres", Need.POSTGRES, fix=NTP)
def postgres(deployment: Deployment) -> Finding:
    """Leases and due times use Postgres' clock, but an execution's id holds the producer's time, which decides its
    partition, and run_at is relative to the producer's clock."""
    return compare_clocks(deployment.clock, _postgres_clock(deployment))


@check("This machine and Redis", Need.REDIS, fix=NTP)
def redis(deployment: Deployment) -> Finding:
    """The model limits of all workers use Redis' clock."""
    with deployment.redis() as client:
        return compare_clocks(deployment.clock, _redis_clock(client))


@check("Postgres and Redis", Need.POSTGRES, Need.REDIS, fix=NTP)
def servers(deployment: Deployment) -> Finding:
    """The two servers agree, whatever this machine's clock shows."""
    with deployment.redis() as client:
        return compare_clocks(_postgres_clock(deployment), _redis_clock(client))


def _postgres_clock(deployment: Deployment) -> Callable[[], float]:
    deployment.ask(server_facts.ping)  # connects, which is not to be measured
    return lambda: deployment.ask(server_facts.unix_time)


def _redis_clock(client: redis_py.Redis) -> Callable[[], float]:
    client.ping()  # connects, which is not to be measured

    def read() -> float:
        seconds, microseconds = client.time()
        return float(seconds) + float(microseconds) / 1e6

    return read


def compare_clocks(one: Callable[[], float], other: Callable[[], float]) -> Finding:
    """How far two clocks are apart at least, without the time that reading them took."""
    began, first = time.monotonic(), one()
    second, last = other(), one()
    took = time.monotonic() - began
    apart = max(first - second, second - last, 0.0)
    figures = {"apart_seconds": apart}
    if apart < NOTICED:
        return met(f"less than {max(apart, took, 0.001) * 1000:.0f} ms apart", **figures)
    verdict = CheckVerdict.NOT_MET if apart >= MISLEADS else CheckVerdict.WARNING
    return Finding(verdict, f"{apart:,.1f} s apart", figures=figures)
