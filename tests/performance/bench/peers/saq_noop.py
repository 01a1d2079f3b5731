"""SAQ on one event loop, its results in Redis."""

import asyncio
import os

from saq import Queue
from saq.queue.base import JobError
from timing import measure, wait_until

queue = Queue.from_url(os.environ["PEER_BROKER"], max_concurrent_ops=100)


async def noop(_context, *, number):
    return number


settings = {"queue": queue, "functions": [noop], "concurrency": 200, "timers": {"sweep": 3600}}


class Producer:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.submitted = 0
        self.do(queue.connect())
        wait_until(self.worker_is_ready)

    def worker_is_ready(self):
        """A job that is taken while the worker makes its first round of upkeep is aborted as stuck."""
        try:
            self.ask()
        except JobError:
            return False
        return True

    def do(self, work):
        return self.loop.run_until_complete(work)

    def ask(self):
        self.submitted += 1
        self.do(queue.apply("noop", timeout=60, poll_interval=0.001, number=0))

    def submit(self, count):
        self.do(self._submit(count))

    async def _submit(self, count):
        for begin in range(0, count, 100):
            await asyncio.gather(*(queue.enqueue("noop", number=n) for n in range(begin, min(begin + 100, count))))
        self.submitted += count

    def settled(self):
        return self.submitted - self.do(queue.count("incomplete"))


if __name__ == "__main__":
    producer = Producer()
    measure(producer.submit, producer.settled, producer.ask)
