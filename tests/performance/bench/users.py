"""``python -m tests.performance.bench.users tasks|threads USERS SECONDS``: users who each submit one and wait for it.

One producer process on the backends of its settings, with :class:`dspex.AsyncClient` and a task for each user, or with
:class:`dspex.Client` and a thread for each. Prints a line of JSON: the milliseconds of each wait after a warm-up, how
many seconds they took together, and the CPU seconds of this process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time

import dspex

WARM_UP_SECONDS = 1.0


class Measured:
    """The waits of all users between the end of the warm-up and the end."""

    def __init__(self, seconds: float) -> None:
        self.began = time.perf_counter() + WARM_UP_SECONDS
        self.ends = self.began + seconds
        self.ms: list[float] = []
        self._cpu: float | None = None

    @property
    def is_over(self) -> bool:
        return time.perf_counter() >= self.ends

    def add(self, began: float) -> None:
        ended = time.perf_counter()
        if began >= self.began and ended <= self.ends:
            if self._cpu is None:
                self._cpu = time.process_time()
            self.ms.append((ended - began) * 1000)

    def as_json(self) -> str:
        cpu = time.process_time() - (self._cpu or 0.0)
        return json.dumps({"ms": self.ms, "seconds": self.ends - self.began, "cpu": cpu})


async def tasks(users: int, seconds: float) -> str:
    async with dspex.AsyncClient() as client:
        await client.execute("noop", {"question": "?"}, timeout=60)
        measured = Measured(seconds)

        async def user(number: int) -> None:
            while not measured.is_over:
                began = time.perf_counter()
                await client.execute("noop", {"question": str(number)}, timeout=60)
                measured.add(began)

        async with asyncio.TaskGroup() as group:
            for number in range(users):
                group.create_task(user(number))
        return measured.as_json()


def threads(users: int, seconds: float) -> str:
    with dspex.Client() as client:
        client.execute("noop", {"question": "?"}, timeout=60)
        measured = Measured(seconds)

        def user(number: int) -> None:
            while not measured.is_over:
                began = time.perf_counter()
                client.execute("noop", {"question": str(number)}, timeout=60)
                measured.add(began)

        started = [threading.Thread(target=user, args=(number,)) for number in range(users)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        return measured.as_json()


if __name__ == "__main__":
    kind, users, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    print(asyncio.run(tasks(users, seconds)) if kind == "tasks" else threads(users, seconds))
