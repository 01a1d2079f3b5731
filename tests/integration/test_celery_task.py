"""dspex.celery: a program in a canvas of the Celery application of docs/how-to/use-in-pipelines.md, with its worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from tests.docs.pages import ROOT, blocks
from tests.processes import WorkerProcess, environment_of, run_module, start

PAGE = ROOT / "docs" / "how-to" / "use-in-pipelines.md"
#: What submits: a process of its own, as Celery leaves the connections of its results open.
DESK = """
from celery import chain
from desk_tasks.app import file_ticket, triage

print(chain(triage.s(ticket="I paid twice"), file_ticket.s(17)).delay().get(timeout=60))
try:
    triage.delay(tiket="?").get(timeout=60)
except Exception as error:
    print(repr(str(error)))
"""


def test_a_program_is_a_task_of_a_chain(
    client: Client, backends: Backends, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker()
    outputs = {"queue": "billing"}
    signature = dspex.signature("ticket -> queue")
    client.deploy(dspex.Program("triage", signature, adapter="scripted", module_options={"outputs": outputs}))
    (tmp_path / "desk_tasks").mkdir()
    (application,) = [block.text for block in blocks(PAGE) if block.path == "desk_tasks/app.py"]
    server = backends.broker_url.rsplit("/", 1)[0]
    for shown, number in (("redis://localhost/5", 14), ("redis://localhost/6", 15)):
        application = application.replace(shown, f"{server}/{number}")
    (tmp_path / "desk_tasks" / "app.py").write_text(application)
    (tmp_path / "desk.py").write_text(DESK)
    environment = environment_of(backends, {"PYTHONPATH": tmp_path})
    arguments = ("celery", "-A", "desk_tasks.app", "worker", "--pool", "solo", "--without-gossip", "--without-mingle")
    with (tmp_path / "celery.log").open("wb") as output:
        celery = start(*arguments, environment=environment, output=output)
    try:
        done = run_module("desk", environment=environment, directory=tmp_path)
    finally:
        celery.terminate()
        celery.wait(60)
    assert done.returncode == 0, done.stderr + (tmp_path / "celery.log").read_text()
    filed, rejected = done.stdout.splitlines()
    assert filed == "ticket 17 goes to billing"
    assert "tiket" in rejected
    (execution,) = client.list(program="triage")
    assert execution.status is dspex.Status.COMPLETED
