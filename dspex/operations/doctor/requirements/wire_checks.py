"""Messages: the queue holds messages of DSPex only, and workers refuse none."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from redis.exceptions import NoPermissionError

from dspex.operations.doctor.check import Finding, Need, check, met, not_applicable, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.publish.broker import TASK, queue_keys
from dspex.store.operations import refused_messages

#: Messages that are read from each list of the queue.
MOST_READ = 50
WITHIN_DAYS = 7


@check(
    "The queue holds messages of DSPex",
    Need.REDIS,
    fix="find out what else writes to this Redis database; workers refuse and drop such messages",
)
def queue(deployment: Deployment) -> Finding:
    """The messages in Redis are of this version of DSPex; another program sent any other message."""
    try:
        with deployment.redis() as client:
            waiting: list[Any] = [body for key in queue_keys() for body in client.lrange(key, 0, MOST_READ - 1)]
    except NoPermissionError:
        return not_applicable("this user of Redis may write to the queue, but not read it")
    foreign = sum(not _ours(body) for body in waiting)
    if foreign:
        return warning(f"{foreign} of {len(waiting)} messages read are not of DSPex", strange=foreign)
    return met(f"{len(waiting)} messages read")


@check(
    "Workers refused no message recently",
    Need.SCHEMA,
    fix="find out what writes to this Redis; after an upgrade, check whether workers of an older version still run",
)
def refused(deployment: Deployment) -> Finding:
    """Messages that workers refused within a week, by reason: damaged, forged, or of an unknown version."""
    counts: Counter[str] = Counter()
    for row in deployment.ask(refused_messages.listing, days=WITHIN_DAYS):
        counts[row["reason"]] += row["count"]
    if not counts:
        return met("none within a week")
    return warning(", ".join(f"{count:,} × {reason}" for reason, count in sorted(counts.items())))


def _ours(raw: bytes) -> bool:
    try:
        return bool(json.loads(raw)["headers"]["task"] == TASK)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
