"""What every peer's producer measures, in the same words. Uses the standard library only.

``python PEER.py noop N`` prints ``{"seconds": …}``, from the first submit until N results are stored;
``python PEER.py latency N`` prints ``{"ms": [...]}``, each from submit to result in hand, one after the other;
``python PEER.py users N`` prints ``{"ms": [...], "seconds": …, "cpu": …}`` of N users who each do that again and again.
"""

import json
import sys
import threading
import time

WARM_UP = 50
#: Users wait so long before they are measured, and then for so long.
USERS_WARM_UP_SECONDS, USERS_SECONDS = 1.0, 5.0


def wait_until(done, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit("the peer's work was not done in time")
        time.sleep(0.005)


class Users:
    """The waits of all users, between the end of the warm-up and the end."""

    def __init__(self):
        self.began = time.perf_counter() + USERS_WARM_UP_SECONDS
        self.ends = self.began + USERS_SECONDS
        self.ms = []
        self.cpu = None

    @property
    def are_done(self):
        return time.perf_counter() >= self.ends

    def add(self, began):
        ended = time.perf_counter()
        if began >= self.began and ended <= self.ends:
            if self.cpu is None:
                self.cpu = time.process_time()
            self.ms.append(1000 * (ended - began))

    def report(self):
        print(json.dumps({"ms": self.ms, "seconds": USERS_SECONDS, "cpu": time.process_time() - (self.cpu or 0)}))


def threads_of_users(number, ask):
    users = Users()

    def user():
        while not users.are_done:
            began = time.perf_counter()
            ask()
            users.add(began)

    threads = [threading.Thread(target=user) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    users.report()


def measure(submit, settled, ask, users=threads_of_users):
    """``submit(n)`` submits n no-ops, ``settled()`` counts the results stored, ``ask()`` submits one and waits.

    ``users(n, ask)`` has n users do that: threads, unless the peer has a loop."""
    what, number = sys.argv[1], int(sys.argv[2])
    for _ in range(WARM_UP):
        ask()
    if what == "latency":
        print(json.dumps({"ms": [1000 * timed(ask) for _ in range(number)]}))
        return
    if what == "users":
        users(number, ask)
        return
    before = settled()
    began = time.perf_counter()
    submit(number)
    wait_until(lambda: settled() - before >= number)
    print(json.dumps({"seconds": time.perf_counter() - began}))


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
