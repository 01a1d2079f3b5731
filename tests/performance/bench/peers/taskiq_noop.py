"""Taskiq on one event loop, its results in Redis."""

import asyncio
import os
import time

import redis
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend
from timing import Users, measure

broker = ListQueueBroker(os.environ["PEER_BROKER"]).with_result_backend(
    RedisAsyncResultBackend(os.environ["PEER_RESULTS"])
)


@broker.task(task_name="noop")
async def noop(number):
    return number


async def ask(interval=0.001):
    task = await noop.kiq(0)
    # By default it looks for the result every 200 ms.
    await task.wait_result(check_interval=interval, timeout=60)


async def many(number):
    users = Users()

    async def user():
        while not users.are_done:
            began = time.perf_counter()
            await ask(0.005)  # every millisecond, 50 users would do little else than look
            users.add(began)

    await asyncio.gather(*(user() for _ in range(number)))
    users.report()


async def submit(count):
    for begin in range(0, count, 100):
        await asyncio.gather(*(noop.kiq(n) for n in range(begin, min(begin + 100, count))))


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    results = redis.Redis.from_url(os.environ["PEER_RESULTS"])
    loop.run_until_complete(broker.startup())
    measure(
        lambda count: loop.run_until_complete(submit(count)),
        results.dbsize,
        lambda: loop.run_until_complete(ask()),
        lambda number, _ask: loop.run_until_complete(many(number)),
    )
