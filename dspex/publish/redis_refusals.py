"""What to do when Redis refuses a command: its disk or memory is full, it is a replica, or a right is missing."""

from __future__ import annotations

import re

import redis

__all__ = ["is_wrong_type", "refusal_fix", "refusal_text"]

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


def is_wrong_type(error: Exception) -> bool:
    """Whether a key holds a value of another type than its command needs."""
    return isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE")
