"""The keys that DSPex and kombu own in Redis by name, and a key among them that holds a value of another type.

Redis refuses every command on such a key. The leader of the pump renames it to ``dspex:set-aside:KEY`` within a second,
so its value is kept in case it belongs to another application. Streams and counters are not listed here: what writes
to them replaces a value of another type.
"""

from __future__ import annotations

from collections.abc import Mapping

import redis

from dspex.publish.broker import MAINTENANCE_QUEUE, QUEUE, queue_keys

__all__ = ["KEY_TYPES", "QUEUE_TYPES", "set_aside", "set_aside_command", "wrong_types"]

_EXCHANGES = (QUEUE, MAINTENANCE_QUEUE, "celery.pidbox", "reply.celery.pidbox", "celeryev")

#: The types by key.
QUEUE_TYPES: Mapping[str, str] = dict.fromkeys(queue_keys(), "list")
KEY_TYPES: Mapping[str, str] = {
    **QUEUE_TYPES,
    **dict.fromkeys(queue_keys(MAINTENANCE_QUEUE), "list"),
    **{f"_kombu.binding{kind}.{name}": "set" for kind in ("", "_permanent") for name in _EXCHANGES},
    "_kombu.binding_deadlines": "zset",
}

# Renames the key unless it has the right type by now: then it holds messages.
_SET_ASIDE = """
local found = redis.call('TYPE', KEYS[1]).ok
if found == 'none' or found == ARGV[1] then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
return 1
"""


def wrong_types(client: redis.Redis, types: Mapping[str, str] = KEY_TYPES) -> dict[str, str]:
    """The keys that exist and have another type than they should, with that type. Raises redis.RedisError, OSError."""
    with client.pipeline(transaction=False) as pipeline:
        for key in types:
            pipeline.type(key)
        found = [_text(reply) for reply in pipeline.execute()]
    return {key: type for key, type in zip(types, found, strict=True) if type not in ("none", types[key])}


def set_aside(client: redis.Redis) -> dict[str, str]:
    """Rename the keys of a wrong type. Returns them, with their types. Raises redis.RedisError, OSError."""
    renamed = {}
    for key, type in wrong_types(client).items():
        if client.eval(_SET_ASIDE, 2, key, _aside(key), KEY_TYPES[key]):
            renamed[key] = type
    return renamed


def set_aside_command(key: str) -> str:
    """The command with which an operator renames the key."""
    return f"redis-cli RENAME {_quoted(key)} {_quoted(_aside(key))}"


def _aside(key: str) -> str:
    return f"dspex:set-aside:{key}"


def _quoted(key: str) -> str:
    """The key as a shell passes it on: the keys of lanes have two characters that do not print."""
    return key if key.isprintable() else "$'" + key.encode("unicode_escape").decode() + "'"


def _text(reply: object) -> str:
    return reply.decode("ascii", "replace") if isinstance(reply, bytes) else str(reply)
