"""Clocks: this machine's, Postgres' and Redis' tell the same time."""

from __future__ import annotations

import time
from collections.abc import Callable

from dspex.operations.doctor.check import Finding, Need, Verdict, check, met
from dspex.operations.doctor.deployment import Deployment

#: From which on a difference shows in times that people compare, and from which on it misleads: in seconds.
NOTICED, MISLEADS = 1.0, 10.0
NTP = "have both machines follow NTP (chrony, systemd-timesyncd)"


@check("This machine and Postgres", Need.POSTGRES, mend=NTP)
def postgres(deployment: Deployment) -> Finding:
    """Leases and due times are Postgres' own, but an execution's id holds the producer's time, which says into which
    partition it goes, and run_at is what the producer takes for now."""
    ask = "SELECT extract(epoch FROM clock_timestamp())::float8"
    deployment.value("SELECT 1")  # connects, which is not to be measured
    return _compared(deployment.clock, lambda: float(deployment.value(ask)))


@check("This machine and Redis", Need.REDIS, mend=NTP)
def redis(deployment: Deployment) -> Finding:
    """The model limits of all workers are counted by Redis' clock."""
    with deployment.redis() as client:
        client.ping()

        def ask() -> float:
            seconds, microseconds = client.time()
            return float(seconds) + float(microseconds) / 1e6

        return _compared(deployment.clock, ask)


@check("Postgres and Redis", Need.POSTGRES, Need.REDIS, mend=NTP)
def servers(deployment: Deployment) -> Finding:
    """The two servers agree, whatever this machine's clock says."""
    deployment.value("SELECT 1")
    with deployment.redis() as client:
        client.ping()

        def ask() -> float:
            seconds, microseconds = client.time()
            return float(seconds) + float(microseconds) / 1e6

        return _compared(lambda: float(deployment.value("SELECT extract(epoch FROM clock_timestamp())::float8")), ask)


def _compared(one: Callable[[], float], other: Callable[[], float]) -> Finding:
    """How far two clocks are apart; what asking took is not held against them."""
    began, first = time.monotonic(), one()
    second, last = other(), one()
    took = time.monotonic() - began
    apart = max(first - second, second - last, 0.0)
    figures = {"apart_seconds": apart}
    if apart < NOTICED:
        return met(f"less than {max(apart, took, 0.001) * 1000:.0f} ms apart", **figures)
    verdict = Verdict.NOT_MET if apart >= MISLEADS else Verdict.WARNING
    return Finding(verdict, f"{apart:,.1f} s apart", figures=figures)
