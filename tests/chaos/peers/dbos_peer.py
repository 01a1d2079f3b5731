"""The workload of tests/chaos/recovery.py as DBOS workflows. Run by DBOS's own environment, not by DSPex's."""

import json
import os
import sys
import threading
import urllib.request

from dbos import DBOS, DBOSClient  # type: ignore[import-not-found]

DBOS(
    config={
        "name": "peer",
        "system_database_url": os.environ["PEER_DATABASE"],
        "executor_id": os.environ["PEER_NAME"],
        "application_version": "1",
    }
)


@DBOS.step()  # type: ignore[untyped-decorator]
def ask(task: int, step: int) -> str:
    body = {"messages": [{"role": "user", "content": f"task {task} (step {step})"}]}
    request = urllib.request.Request(
        os.environ["PEER_MODEL"] + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).read()
    return "done"


@DBOS.workflow()  # type: ignore[untyped-decorator]
def work(task: int) -> str:
    for step in range(3):
        ask(task, step)
    return "done"


if __name__ == "__main__":
    if sys.argv[1:] == ["submit"]:
        client = DBOSClient(system_database_url=os.environ["PEER_DATABASE"])
        for number in range(int(os.environ["PEER_TASKS"])):
            client.enqueue({"queue_name": "work", "workflow_name": "work", "app_version": "1"}, number)
    else:
        DBOS.launch()
        DBOS.register_queue("work", worker_concurrency=int(os.environ["PEER_TASKS"]), polling_interval_sec=0.5)
        print("peer is ready.", flush=True)
        threading.Event().wait()
