"""What every peer's producer measures, in the same words. Uses the standard library only.

``python PEER.py noop N`` prints ``{"seconds": …}``, from the first submit until N results are stored;
``python PEER.py latency N`` prints ``{"ms": [...]}``, each from submit to result in hand, one after the other.
"""

import json
import sys
import time

WARM_UP = 50


def wait_until(done, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit("the peer's work was not done in time")
        time.sleep(0.005)


def measure(submit, settled, ask):
    """``submit(n)`` submits n no-ops, ``settled()`` counts the results stored, ``ask()`` submits one and waits."""
    what, number = sys.argv[1], int(sys.argv[2])
    for _ in range(WARM_UP):
        ask()
    if what == "latency":
        print(json.dumps({"ms": [1000 * timed(ask) for _ in range(number)]}))
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
