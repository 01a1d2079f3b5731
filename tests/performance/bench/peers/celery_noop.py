"""Celery with a thread pool and its results in Redis."""

import os

import redis
from celery import Celery
from timing import measure

app = Celery("celery_noop", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_RESULTS"])
app.conf.update(broker_connection_retry_on_startup=True)


@app.task(name="noop")
def noop(number):
    return number


def submit(count):
    for number in range(count):
        noop.delay(number)


if __name__ == "__main__":
    results = redis.Redis.from_url(os.environ["PEER_RESULTS"])
    measure(submit, results.dbsize, lambda: noop.delay(0).get(timeout=60))
