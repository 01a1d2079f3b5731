"""The wire protocol: a message carries ids, is versioned, and whatever is damaged or forged is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from redis.exceptions import NoPermissionError
from uuid_utils.compat import uuid7

from dspex.errors import MessageRefused
from dspex.operations.doctor.check import Finding, Need, check, met, not_met, skipped, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.requirements.signature_checks import REINSTALL
from dspex.publish.broker import TASK, queue_keys
from dspex.publish.envelope import MAX_IDS, VERSION, pack, unpack

#: Messages that are looked at in each list of the queue.
LOOKED_AT = 50


@check("An envelope comes back as it went", mend=REINSTALL)
def round_trip(_deployment: Deployment) -> Finding:
    """The ids of executions, as many as a message may carry, survive JSON; nothing else travels."""
    ids = [UUID(str(uuid7())) for _ in range(MAX_IDS)]
    text = json.dumps(pack(ids))
    if unpack(json.loads(text)) != ids:
        return not_met("other ids came back")
    return met(f"version {VERSION}, {MAX_IDS} ids, {len(text) / MAX_IDS:.0f} bytes each")


@check("Damaged and forged envelopes are refused", mend=REINSTALL)
def refusal(_deployment: Deployment) -> Finding:
    """Envelopes that are truncated, of a future version, too large, altered or no envelope at all are refused."""
    good = pack([UUID(str(uuid7()))])
    forged: Mapping[str, Any] = {
        "of a future version": {**good, "v": VERSION + 1},
        "altered": {**good, "ids": [UUID(str(uuid7())).hex]},
        "empty": {**good, "ids": []},
        "too large": {**good, "ids": good["ids"] * (MAX_IDS + 1)},
        "truncated": {"v": VERSION},
        "no envelope": [1, 2, 3],
    }
    if accepted := [what for what, envelope in forged.items() if not _refused(envelope)]:
        return not_met(f"accepted: {', '.join(accepted)}")
    return met(f"{len(forged)} kinds refused")


@check(
    "The queue holds messages of DSPex",
    Need.REDIS,
    mend="find out who else writes to this Redis database; workers refuse such messages and drop them",
)
def queue(deployment: Deployment) -> Finding:
    """What waits in Redis can be read as messages of this version; anything else was put there by somebody else."""
    try:
        with deployment.redis() as client:
            waiting: list[Any] = [body for key in queue_keys() for body in client.lrange(key, 0, LOOKED_AT - 1)]
    except NoPermissionError:
        return skipped("this user of Redis may write to the queue, and not read it")
    strange = sum(not _ours(body) for body in waiting)
    if strange:
        return warning(f"{strange} of {len(waiting)} messages looked at are not ours", strange=strange)
    return met(f"{len(waiting)} messages looked at")


@check(
    "Workers refused no message of late",
    Need.SCHEMA,
    mend="find out who writes to this Redis; after an upgrade, whether workers of an older version still run",
)
def refused(deployment: Deployment) -> Finding:
    """Messages that workers refused within a week, by reason: damaged, forged, or of a version they do not know."""
    rows = deployment.rows("""SELECT reason, sum(count)::bigint AS number FROM dspex.refused_messages
        WHERE last_at > now() - interval '7 days' GROUP BY reason ORDER BY reason""")
    return warning(", ".join(f"{row.number:,} × {row.reason}" for row in rows)) if rows else met("none within a week")


def _refused(envelope: object) -> bool:
    try:
        unpack(envelope)
    except MessageRefused:
        return True
    return False


def _ours(raw: bytes) -> bool:
    try:
        return bool(json.loads(raw)["headers"]["task"] == TASK)
    except (ValueError, KeyError, TypeError):
        return False
