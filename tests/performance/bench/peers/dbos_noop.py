"""DBOS workflows from a queue in Postgres: durable, as DSPex is."""

import os
import sys
import threading

import psycopg
from dbos import DBOS, DBOSClient
from timing import measure, wait_until

URL = os.environ["PEER_DATABASE"]


@DBOS.workflow(name="noop")
def noop(number):
    return number


def work():
    DBOS(
        config={
            "name": "peer",
            "system_database_url": URL,
            "executor_id": "bench",
            "application_version": "1",
            "use_listen_notify": True,
            "run_admin_server": False,
        }
    )
    DBOS.launch()
    # It looks for work every second by default; the interval decides its latency.
    DBOS.register_queue("bench", worker_concurrency=200, polling_interval_sec=0.01)
    threading.Event().wait()


class Producer:
    def __init__(self):
        self.connection = psycopg.connect(URL, autocommit=True)
        wait_until(self.worker_is_ready)
        self.client = DBOSClient(system_database_url=URL, use_listen_notify=True)

    def worker_is_ready(self):
        try:
            return self.connection.execute("SELECT FROM dbos.queues WHERE name = 'bench'").fetchall()
        except psycopg.errors.UndefinedTable:
            return False

    def enqueue(self, number):
        return self.client.enqueue({"queue_name": "bench", "workflow_name": "noop", "app_version": "1"}, number)

    def ask(self):
        self.enqueue(0).get_result(polling_interval_sec=0.001)

    def submit(self, count):
        for number in range(count):
            self.enqueue(number)

    def settled(self):
        found = self.connection.execute("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'").fetchone()
        return found[0]


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work()
    else:
        producer = Producer()
        measure(producer.submit, producer.settled, producer.ask)
