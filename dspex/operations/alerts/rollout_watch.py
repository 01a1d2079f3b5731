"""Rollouts that end by themselves: their guard trips, and an alert says so."""

from __future__ import annotations

import logging
from functools import partial

from dspex.operations.alerts.alert_rules import Breach
from dspex.store.database import Database
from dspex.store.improvement import rollouts
from dspex.store.improvement.rollouts import Rollout

__all__ = ["end_tripped", "ended_rollouts"]

log = logging.getLogger("dspex.alerts")


def end_tripped(database: Database) -> list[Rollout]:
    """End the rollouts whose guard trips now. Several processes may do so at once: each rollout ends once."""
    ended = []
    for watched in database.run(rollouts.watched):
        found = watched.rollout.guard.tripped_by(watched.figures)
        if found is None:
            continue
        limit, why = found
        under_way = watched.rollout
        end = partial(rollouts.end, program=under_way.program, id=under_way.id, reason=why, tripped=limit)
        over = database.run(end)
        if over is not None:
            log.error("the rollout of %s to version %s ended: %s", over.program, over.version, why)
            ended.append(over)
    return ended


def ended_rollouts(database: Database, *, within_seconds: float) -> list[Breach]:
    """A breach for each program with a rollout that its guard ended within this time."""
    over = {each.program: each for each in database.run(partial(rollouts.tripped, within_seconds=within_seconds))}
    return [
        Breach("rollout_ended", name, 1.0, 0.0, f"its rollout to version {last.version} ended: {last.reason}")
        for name, last in over.items()
    ]
