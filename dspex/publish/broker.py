"""Redis, as the producer uses it: messages to workers out, hints of completions in.

Every key that DSPex owns in Redis; losing any of them loses no execution:

``dspex``               kombu's queue of execution messages (a list for each lane: see :func:`lane`)
``dspex.maintenance``   the same, for beat's tasks
``dspex:done``          pub/sub: ids of executions that reached a terminal status, separated by spaces
``dspex:cancel``        pub/sub: ids of running executions that are to be cancelled, separated by spaces
``dspex:stream:ID``      Redis Streams: the output of executions submitted with ``stream=True``, kept for some minutes
``dspex:limit*``         counts of model calls (workers/lm/limits/buckets.py)
``dspex:set-aside:KEY``  what had the name of one of these and another type (dspex/publish/key_types.py)
``dspex:rate:CLIENT``    a number: the submit rate of a client (dspex/submit/rate_limit.py)
``_kombu.*``, ``*.celery.pidbox``, ``celeryev*``  Celery's own

Messages follow Celery's protocol 2, written with kombu, so that a producer need not import celery.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import redis
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool
from kombu.utils.url import parse_url

from dspex.errors import BackendUnavailable
from dspex.publish import redis_clients
from dspex.publish.channels import publish_ids
from dspex.publish.envelope import pack
from dspex.publish.redis_clients import kombu_options, kombu_url
from dspex.publish.redis_refusals import is_wrong_type, refusal_fix
from dspex.settings import without_password
from dspex.settings.failpoints import AFTER_PUBLISH, BEFORE_PUBLISH, failpoint

__all__ = [
    "MAINTENANCE_QUEUE",
    "QUEUE",
    "TASK",
    "Broker",
    "queue_depth",
    "queue_keys",
    "step",
    "tls_options",
]

TASK = "dspex.execute"
QUEUE = "dspex"
MAINTENANCE_QUEUE = "dspex.maintenance"
#: The least urgent priority of each step: within it, executions are served as they come.
PRIORITY_STEPS = (2, 5, 8, 9)
#: kombu's own priorities: two lanes for each step.
LANES = tuple(range(2 * len(PRIORITY_STEPS)))

CONNECT_TIMEOUT_SECONDS = 2
#: No attempt is made for this long after a failure, so that submits do not wait for an unreachable Redis.
COOLDOWN_SECONDS = 1.0

log = logging.getLogger("dspex")


def queue_keys(queue: str = QUEUE) -> list[str]:
    """The Redis lists of a queue, one for each lane."""
    return [queue if lane == 0 else f"{queue}\x06\x16{lane}" for lane in LANES]


def queue_depth(client: redis.Redis, queue: str = QUEUE) -> int:
    """How many messages wait in a queue. Raises redis.RedisError, OSError."""
    with client.pipeline(transaction=False) as pipeline:
        for key in queue_keys(queue):
            pipeline.llen(key)
        replies = pipeline.execute(raise_on_error=False)
    for reply in replies:
        # A key of another type holds no message.
        if isinstance(reply, redis.RedisError) and not is_wrong_type(reply):
            raise reply
    return sum(reply for reply in replies if isinstance(reply, int))


def lane(priority: int, *, bulk: bool) -> int:
    """The kombu priority. Within each step, executions of a program that has many in Redis come last."""
    return 2 * bisect_left(PRIORITY_STEPS, priority) + bulk


def step(lane: int) -> int:
    """The priority step of a lane, 0 for the most urgent."""
    return lane // 2


def tls_options(url: str) -> dict[str, Any] | None:
    """The options with which kombu, Celery and Flower verify a ``rediss://`` server; None for a URL without TLS.

    By default kombu and Flower verify nothing.
    """
    if not url.startswith("rediss://"):
        return None
    given: dict[str, Any] = parse_url(url).get("ssl") or {}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **given}


class Broker:
    """Publishes executions. Safe to share between threads; connects on first use."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        self._connection = Connection(
            kombu_url(url),
            ssl=tls_options(url) or False,
            transport_options={
                "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "socket_timeout": CONNECT_TIMEOUT_SECONDS,
                "priority_steps": LANES,
                # Without these kombu would try to connect for ever.
                "max_retries": 1,
                "interval_start": 0,
                "interval_step": 0,
                "interval_max": 0,
                **kombu_options(url),
            },
        )
        self._connections = self._connection.Pool(pool_size)
        self._producers = ProducerPool(self._connections, limit=pool_size)
        self._origin = f"{os.getpid()}@{socket.gethostname()}"
        self._away_until = 0.0

    def publish(
        self, ids: Sequence[UUID], *, program: str, priority: int, bulk: bool = False, alone: bool = False
    ) -> None:
        """Put one message for these executions on the queue. Raises BackendUnavailable.

        ``bulk``: many executions of the program are queued already, and other programs' executions come first.
        ``alone``: the worker runs each of them while it runs nothing else.
        The task's id is the id of the first execution.
        """
        if time.monotonic() < self._away_until:
            raise self._unavailable(OSError("it did not take a message a moment ago"))
        failpoint(BEFORE_PUBLISH)
        try:
            with self._producers.acquire(block=True) as producer:
                producer.publish(**self._message(ids, program, lane(priority, bulk=bulk), alone=alone))
        except (OperationalError, redis.RedisError, OSError) as error:
            if not is_wrong_type(error):  # the other lists take messages
                self._away_until = time.monotonic() + COOLDOWN_SECONDS
            raise self._unavailable(error) from error
        failpoint(AFTER_PUBLISH)

    def publish_hint(self, channel: str, ids: Collection[UUID]) -> None:
        """Publish these ids on a channel. Without Redis the hint is dropped with a warning; no execution is lost."""
        if ids:
            try:
                with self.client(socket_timeout=CONNECT_TIMEOUT_SECONDS) as client:
                    publish_ids(client, channel, ids)
            except (redis.RedisError, OSError) as error:
                log.warning("%s", self._unavailable(error))

    def client(self, **options: Any) -> redis.Redis:
        """A plain Redis client of the broker's database; the caller closes it."""
        return redis_clients.client(self.url, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS, **options)

    def close(self) -> None:
        self._producers.force_close_all()
        self._connections.force_close_all()
        self._connection.release()

    def _message(self, ids: Sequence[UUID], program: str, lane: int, *, alone: bool = False) -> dict[str, Any]:
        task_id = str(ids[0])
        return {
            "body": ([pack(ids)], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}),
            "serializer": "json",
            "exchange": "",
            "routing_key": QUEUE,
            "declare": [],
            "retry": False,
            "priority": lane,
            "correlation_id": task_id,
            "headers": {
                "lang": "py",
                "task": TASK,
                # Flower shows the program and the execution ids, never inputs.
                "shadow": f"{TASK} {program}",
                "argsrepr": " ".join(map(str, ids[:3])) + (f" and {len(ids) - 3} more" if len(ids) > 3 else ""),
                "kwargsrepr": "{}",
                "alone": alone,
                "id": task_id,
                "root_id": task_id,
                "parent_id": None,
                "group": None,
                "retries": 0,
                "eta": None,
                "expires": None,
                "timelimit": [None, None],
                "origin": self._origin,
                "ignore_result": True,
            },
        }

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        where = without_password(self.url)
        refuses = isinstance(error, redis.ResponseError) or isinstance(error.__cause__, redis.ResponseError)
        what = "refuses a message" if refuses else "is out of reach"
        fix = f" ({refusal_fix(error)})" if refuses else ""
        return BackendUnavailable(
            f"Redis at {where} {what}: {str(error).rstrip('.')}{fix}. "
            f"What was submitted is stored and runs once Redis {'takes messages' if refuses else 'is back'}",
            backend="redis",
            where=where,
        )
