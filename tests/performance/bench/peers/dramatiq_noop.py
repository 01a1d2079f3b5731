"""Dramatiq with one process of threads and its results in Redis."""

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from timing import measure

# Enough connections for every thread: redis-py's own limit of 100 loses results.
results = redis.Redis(connection_pool=redis.ConnectionPool.from_url(os.environ["PEER_RESULTS"], max_connections=1000))
broker = RedisBroker(
    client=redis.Redis(connection_pool=redis.ConnectionPool.from_url(os.environ["PEER_BROKER"], max_connections=1000))
)
broker.add_middleware(Results(backend=RedisBackend(client=results)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(number):
    return number


def submit(count):
    for number in range(count):
        noop.send(number)


if __name__ == "__main__":
    measure(submit, results.dbsize, lambda: noop.send(0).get_result(block=True, timeout=60_000))
