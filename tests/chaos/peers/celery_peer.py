"""The workload of tests/chaos/recovery.py as a plain Celery task. Run by Celery's own environment, not by DSPex's."""

import json
import os
import urllib.request

from celery import Celery

app = Celery("peer", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_BROKER"])
app.conf.update(
    # What Celery's documentation recommends for work that must survive its worker.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # A message of a dead worker is given to another after so long; it must exceed the longest task (3 s).
    broker_transport_options={"visibility_timeout": 10},
    result_backend_transport_options={"visibility_timeout": 10},
    visibility_timeout=10,
    broker_connection_retry_on_startup=True,
)


@app.task(name="work")  # type: ignore[untyped-decorator]
def work(task: int) -> str:
    for step in range(3):
        body = {"messages": [{"role": "user", "content": f"task {task} (step {step})"}]}
        request = urllib.request.Request(
            os.environ["PEER_MODEL"] + "/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).read()
    return "done"


if __name__ == "__main__":
    for number in range(int(os.environ["PEER_TASKS"])):
        work.delay(number)
