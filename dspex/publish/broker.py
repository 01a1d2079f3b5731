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

A message is what Celery's protocol 2 and kombu's Redis transport write: a JSON text, pushed on the list of its lane.
It is written here, which costs a tenth of the CPU of kombu's producer; a test compares it with kombu's.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import threading
import time
from base64 import b64encode
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import UUID, uuid4

import redis
from kombu.utils.url import parse_url
from redis.backoff import NoBackoff
from redis.retry import Retry

from dspex.errors import BackendUnavailable
from dspex.publish import redis_clients
from dspex.publish.channels import publish_ids
from dspex.publish.envelope import pack
from dspex.publish.redis_refusals import is_wrong_type, refusal_fix
from dspex.settings import without_password
from dspex.settings.failpoints import AFTER_PUBLISH, BEFORE_PUBLISH, failpoint

__all__ = [
    "MAINTENANCE_QUEUE",
    "QUEUE",
    "TASK",
    "Broker",
    "is_bulk",
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
_NO_CERTIFICATE = (
    "a server that requires a client's certificate closes the connection without one: ssl_certfile and ssl_keyfile in "
    "the URL"
)

log = logging.getLogger("dspex")


def queue_keys(queue: str = QUEUE) -> list[str]:
    """The Redis lists of a queue, one for each lane."""
    return [queue if lane == 0 else f"{queue}\x06\x16{lane}" for lane in LANES]


#: The lists of the executions' messages, by lane.
_KEYS = queue_keys()


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


def is_bulk(lane: int) -> bool:
    """Whether a lane is for programs and tenants that have many executions in Redis."""
    return lane % 2 == 1


def tls_options(url: str) -> dict[str, Any] | None:
    """The options with which kombu, Celery and Flower verify a ``rediss://`` server; None for a URL without TLS.

    By default kombu and Flower verify nothing.
    """
    if not url.startswith("rediss://"):
        return None
    given: dict[str, Any] = parse_url(url).get("ssl") or {}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **given}


class Broker:
    """Publishes executions. Safe to share between threads; connects on first use.

    At most ``pool_size`` connections are open, and stay open; further calls wait for one of them.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        self._open(pool_size)
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
        at = lane(priority, bulk=bulk)
        try:
            self._push(_KEYS[at], self._message(ids, program, at, alone=alone))
        except (redis.RedisError, OSError) as error:
            if not is_wrong_type(error):  # the other lists take messages
                self._away_until = time.monotonic() + COOLDOWN_SECONDS
            raise self._unavailable(error) from error
        failpoint(AFTER_PUBLISH)

    def publish_hint(self, channel: str, ids: Collection[UUID]) -> None:
        """Publish these ids on a channel. Without Redis the hint is dropped with a warning; no execution is lost."""
        if ids:
            try:
                self._announce(channel, ids)
            except (redis.RedisError, OSError) as error:
                log.warning("%s", self._unavailable(error))

    def client(self, **options: Any) -> redis.Redis:
        """A plain Redis client of the broker's database; the caller closes it."""
        return redis_clients.client(self.url, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS, **options)

    def script(self, source: str, *, seconds: float) -> Callable[[Sequence[str], Sequence[Any]], object]:
        """A function of keys and arguments that runs the script, once, within so many seconds.

        It raises redis.RedisError, OSError.
        """
        run = self._connected(seconds, retries=0).register_script(source)
        return lambda keys, arguments: run(keys=keys, args=arguments)

    def close(self) -> None:
        for client in self._opened:
            client.close()

    def _open(self, pool_size: int) -> None:
        """Make the clients, which connect on first use."""
        self._opened: list[redis.Redis] = []
        self._redis = self._connected()
        self._free = threading.BoundedSemaphore(pool_size)

    def _connected(self, seconds: float = CONNECT_TIMEOUT_SECONDS, *, retries: int = 1) -> redis.Redis:
        """A client that is closed with the broker. A connection that Redis closed while it was idle is replaced."""
        retry = Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,))
        client = self.client(socket_timeout=seconds, retry=retry)
        self._opened.append(client)
        return client

    def _push(self, key: str, message: str) -> None:
        with self._free:
            self._redis.lpush(key, message)

    def _announce(self, channel: str, ids: Collection[UUID]) -> None:
        with self._free:
            publish_ids(self._redis, channel, ids)

    def _message(self, ids: Sequence[UUID], program: str, lane: int, *, alone: bool = False) -> str:
        task_id = str(ids[0])
        body = [[pack(ids)], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        return json.dumps(
            {
                "body": b64encode(json.dumps(body).encode()).decode(),
                "content-encoding": "utf-8",
                "content-type": "application/json",
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
                "properties": {
                    "correlation_id": task_id,
                    "delivery_mode": 2,
                    "delivery_info": {"exchange": "", "routing_key": QUEUE},
                    "priority": lane,
                    "body_encoding": "base64",
                    "delivery_tag": str(uuid4()),
                },
            }
        )

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        where = without_password(self.url)
        refuses = isinstance(error, redis.ResponseError)
        what = "refuses a message" if refuses else "is out of reach"
        fix = refusal_fix(error) if refuses else _NO_CERTIFICATE if self._may_lack_certificate(error) else ""
        return BackendUnavailable(
            f"Redis at {where} {what}: {str(error).rstrip('.')}{f' ({fix})' if fix else ''}. "
            f"What was submitted is stored and runs once Redis {'takes messages' if refuses else 'is back'}",
            backend="redis",
            where=where,
        )

    def _may_lack_certificate(self, error: Exception) -> bool:
        """Whether the server may have closed the connection because it requires a client's certificate. With TLS 1.3 it
        does so after the handshake, and often before the client has read why."""
        if not self.url.startswith("rediss://") or "ssl_certfile=" in self.url:
            return False
        why = error.__context__
        closed = why is None or isinstance(why, BrokenPipeError | ConnectionResetError | ssl.SSLError)
        # The classes below this one say what it was, such as AuthenticationError.
        return type(error) is redis.ConnectionError and closed and not isinstance(why, ssl.SSLCertVerificationError)
