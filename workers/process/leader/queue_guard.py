"""The queue in Redis, guarded by the leader of the pump against what other clients do to its keys.

Postgres knows how many executions have messages in Redis. Many more messages are a flood, forged or left over. The
workers would refuse them one by one, and work would wait behind them. The leader empties the lists instead: what was
dispatched is then dispatched again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import redis

from dspex.publish import key_types
from dspex.publish.broker import queue_keys
from dspex.store.database import Database
from dspex.store.lifecycle.dispatch import count_dispatched

__all__ = ["QueueGuard"]

log = logging.getLogger("dspex.workers")

#: So many messages are no flood: a worker refuses them within seconds.
FLOOD_MESSAGES = 1000
#: Nor are so many for each dispatched execution: it is dispatched again when it waits for long.
FLOOD_FACTOR = 2


class QueueGuard:
    """``refuse`` counts what is removed, by its reason."""

    def __init__(self, client: redis.Redis, database: Database, refuse: Callable[[str], None]) -> None:
        self._redis = client
        self._database = database
        self._refuse = refuse

    def set_keys_aside(self) -> None:
        """Rename keys of the queues that hold a value of another type: no message passes through them."""
        try:
            renamed = key_types.set_aside(self._redis)
        except (redis.RedisError, OSError) as error:
            log.debug("cannot check the types of keys in Redis: %s", error)
            return
        for key, type in renamed.items():
            log.error("the key %r of Redis held a %s, and was renamed: another client writes to it", key, type)
            self._refuse("wrong_key_type")

    def end_flood(self, waiting: int) -> bool:
        """Empty the queue if these are many more messages than executions were dispatched. Returns whether it did."""
        least = (waiting - FLOOD_MESSAGES) // FLOOD_FACTOR
        if least <= 0 or self._database.run(partial(count_dispatched, most=least)) >= least:
            return False
        try:
            self._redis.delete(*queue_keys())
        except (redis.RedisError, OSError) as error:
            log.warning("Redis has %s messages, far more than were dispatched, and they stay: %s", waiting, error)
            return False
        log.error("Redis had %s messages, far more than were dispatched: the queue was emptied", waiting)
        self._refuse("flood")
        return True
