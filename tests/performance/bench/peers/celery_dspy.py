"""What people do today: a Celery task that calls dspy.Predict and writes one row. PEER_ENGINE is DSPy's engine."""

import json
import os
import sys
import time

from celery import Celery
from timing import wait_until

app = Celery("celery_dspy", broker=os.environ["PEER_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, task_ignore_result=True)
ROW = "INSERT INTO answers (question, answer) VALUES (%s, %s)"


class Host:
    """Made when the first task needs it, after the fork if there is one."""

    made = None

    def __init__(self):
        import dspy
        from psycopg_pool import ConnectionPool

        self.pool = ConnectionPool(os.environ["PEER_DATABASE"], min_size=1, max_size=20, kwargs={"autocommit": True})
        self.predict = dspy.Predict("question -> answer")
        self.context = dspy.context
        self.lm = dspy.LM(
            "openai/fake",
            engine=os.environ["PEER_ENGINE"],
            api_base=os.environ["PEER_MODEL"],
            api_key="none",
            cache=False,
        )


@app.task(name="ask")
def ask(question):
    Host.made = Host.made or Host()
    with Host.made.context(lm=Host.made.lm):
        answer = Host.made.predict(question=question).answer
    with Host.made.pool.connection() as connection:
        connection.execute(ROW, (question, answer))


def main():
    import psycopg

    count = int(sys.argv[1])
    with psycopg.connect(os.environ["PEER_DATABASE"], autocommit=True) as connection:
        connection.execute("CREATE TABLE answers (id bigserial PRIMARY KEY, question text, answer text)")

        def rows():
            return connection.execute("SELECT count(*) FROM answers").fetchone()[0]

        ask.delay("the first")  # imports what it needs, which takes seconds
        wait_until(lambda: rows() == 1)
        for number in range(50):
            ask.delay(f"warm-up {number}")
        wait_until(lambda: rows() == 51)
        began = time.perf_counter()
        for number in range(count):
            ask.delay(f"question {number}")
        wait_until(lambda: rows() == 51 + count, 300)
        print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
