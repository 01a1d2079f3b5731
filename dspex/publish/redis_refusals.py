"""What to do when Redis refuses a command: its disk or memory is full, it is a replica, or a right is missing."""

from __future__ import annotations

import re
from uuid import UUID

import redis

from dspex.publish.channels import stream_key

__all__ = ["is_wrong_type", "refusal_fix", "refusal_text", "write_refusal"]

#: A key that does not exist, and that every user but Flower's may write to.
PROBE_KEY = stream_key(UUID(int=0))

#: The longest text of Redis that is shown.
TEXT_MOST = 200

#: By the word with which an error begins.
_FIXES = {
    "MISCONF": "free the disk of Redis, or CONFIG SET stop-writes-on-bgsave-error no: DSPex needs no persistence",
    "OOM": "raise maxmemory, or find out what else fills this Redis: redis-cli --bigkeys",
    "READONLY": "it is a replica: point DSPEX_BROKER_URL at the primary",
    "NOPERM": "give its user the rights in deploy/redis/users.acl",
    "NOAUTH": "give DSPEX_BROKER_URL the user and the password of this Redis",
    "WRONGTYPE": "a key of DSPex holds a value of another type: `dspex health` names it",
    "LOADING": "wait until Redis has loaded its data",
    "NOREPLICAS": "its replicas are gone: start them, or CONFIG SET min-replicas-to-write 0: DSPex needs no replica",
    "BUSY": "another client's script does not end: redis-cli SCRIPT KILL",
    "MASTERDOWN": "it is a replica without its primary: point DSPEX_BROKER_URL at the primary",
}
#: redis-py removes that word of these.
_BY_TYPE = {
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.MasterDownError: "MASTERDOWN",
}
_WORD = re.compile(r"[A-Z]{3,}")


def refusal_text(error: Exception) -> str:
    """The first line of the error, shortened."""
    return str(error).strip().split("\n")[0][:TEXT_MOST] or type(error).__name__


def refusal_fix(error: Exception) -> str:
    """How to fix the cause of an error that Redis answered with."""
    codes = [_BY_TYPE.get(type(error), ""), *_WORD.findall(str(error))]  # a script's error quotes another
    return next((_FIXES[code] for code in codes if code in _FIXES), "see the log of Redis")


def write_refusal(client: redis.Redis) -> redis.ResponseError | None:
    """The error with which Redis refuses writes now: its disk or memory is full, or it is a replica."""
    try:
        client.set(PROBE_KEY, "", px=1, xx=True)  # a write that changes nothing, as there is no such key
    except redis.exceptions.NoPermissionError:
        return None
    except redis.ResponseError as error:
        return error
    return None


def is_wrong_type(error: Exception) -> bool:
    """Whether a key holds a value of another type than its command needs."""
    return isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE")
