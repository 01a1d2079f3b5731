"""Programs that a worker cannot read or run: it starts without them, and leaves their executions to other workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from uuid_utils.compat import uuid7

import dspex
from dspex.cli.operate.component_details import DETAILS
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.operations.doctor.check import CheckVerdict, Finding
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.operations import work_checks
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.store.lifecycle import dispatch, executions
from dspex.store.lifecycle.executions import Submission
from tests.integration.test_execution import scripted
from tests.processes import WorkerProcess
from tests.waiting import wait_for

StartWorker = Callable[..., WorkerProcess]

#: Postgres reads what is nested so deeply; Python up to 3.13 does not, and 3.14 may.
TOO_DEEP = 12_000
#: Content that is not a program, by the name it is deployed under.
NOT_PROGRAMS = {"empty": "{}", "null": "null", "list": "[1]", "deep": "[" * TOO_DEEP + "]" * TOO_DEEP}
#: A package that brings an adapter and a type.
SHOP = """
import dspex
from dspex.program.adapters import AdapterInfo, Capabilities

dspex.register_type("isbn", base=":string(max_length=17)")
INFO = AdapterInfo("shop", "A shop's", "shop:Adapter", Capabilities(modules=frozenset({"predict"})))
"""
#: Code that cannot be imported where a variable is missing.
ACTIONS = """
import os

if "SHOP_TOKEN" not in os.environ:
    raise RuntimeError("a secret text")

async def note(run, proceed):
    await proceed()
    return {}
"""


def package(directory: Path) -> Path:
    """The package as pip would install it."""
    info = directory / "shop-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[dspex.adapters]\nshop = shop:INFO\n")
    (directory / "shop.py").write_text(SHOP)
    return directory


def store_program(connection: Connection, name: str, content: str) -> None:
    """Deploy what only the database sees, as another producer may."""
    given = {"name": name, "version": "0" * 16, "content": content}
    connection.execute(text("INSERT INTO dspex.program_versions VALUES (:name, :version, :content)"), given)
    connection.execute(text("INSERT INTO dspex.programs (name, version) VALUES (:name, :version)"), given)


def store_executions(connection: Connection, program: str, inputs: dict[str, Any], count: int) -> list[UUID]:
    made = [Submission(uuid7(), json.dumps(inputs), "[]", program, "0" * 16, 5, 1, 60.0) for _ in range(count)]
    executions.copy(connection, made)
    return [each.id for each in made]


def held(database: Database) -> dict[str, int]:
    return {each.program: each.executions for each in database.run(dispatch.held)}


def statuses(database: Database, ids: list[UUID]) -> set[str]:
    return {row["status"] for row in database.run(partial(executions.find_many, ids=ids))}


def fault_of_depth() -> str:
    """Why what is nested so deeply is not a program: this Python cannot read it, or it is a list."""
    try:
        json.loads(NOT_PROGRAMS["deep"])
    except RecursionError:
        return "nested too deeply"
    return "a JSON object is expected, not a list"


def claims(execution: Execution) -> list[str]:
    return [event.data["worker"] for event in execution.audit_trail if event.kind == "claimed"]


def test_a_program_that_a_worker_cannot_run_waits_for_one_that_can(
    backends: Backends,
    client: Client,
    database: Database,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first worker lacks an adapter, a type and a variable; what is stored of some programs is not a program."""
    typed = scripted("typed", ":string book -> :string title").content
    typed = {**typed, "signature": typed["signature"].replace(":string book", ":isbn book")}
    with database.transaction() as connection:
        for name, content in NOT_PROGRAMS.items():
            store_program(connection, name, content)
            store_executions(connection, name, {}, 2)
        store_program(connection, "typed", json.dumps(typed))
        ids = store_executions(connection, "typed", {"book": "0-19-852663-6"}, 20)
        stateful = scripted("stateful", "question -> answer").content
        store_program(connection, "stateful", json.dumps({**stateful, "state": json.dumps({"demos": []})}))
        (misfit,) = store_executions(connection, "stateful", {"question": "?"}, 1)
    client.deploy(scripted("qa", "question -> answer"))
    allowed = {"DSPEX_PROGRAM_PACKAGES": "shop_actions", "DSPEX_LEASE_SECONDS": 1}
    (tmp_path / "shop_actions.py").write_text(ACTIONS)
    start_worker(**allowed, PYTHONPATH=tmp_path)
    wait_for(lambda: held(database) == {**dict.fromkeys(NOT_PROGRAMS, 2), "typed": 20}, "them to be held back")
    assert client.execute("qa", {"question": "?"}, timeout=60).answer
    with pytest.raises(dspex.ExecutionFailed, match="state: expected a mapping"):
        client.get(misfit).result(60)  # no worker can run it
    assert client.get(misfit).cause_code == "state_mismatch"

    # Deployed while it runs: it finds out with the first attempts, which do not count.
    client.deploy(
        scripted("late", "question -> answer", actions=["shop_actions:note"], retry=dspex.Retry(max_attempts=1))
    )
    late = [client.submit("late", {"question": "?"}) for _ in range(5)]
    wait_for(lambda: held(database).get("late") == 5, "the late ones to be held back")
    for execution in late:
        found = client.get(execution.id)
        assert found.status == "queued"
        assert len(claims(found)) <= 1
    told = [client.get(execution.id).error for execution in late]
    assert {error.code for error in told if error} == {"code_not_found"}
    assert "a secret text" not in str(told)

    component = client.health().components["programs"]
    assert component.status is dspex.Condition.DEGRADED
    line = DETAILS["programs"](component.details)
    assert "empty 0000000000000000 cannot run in any live worker (2 executions wait): " in line
    monkeypatch.setenv("DSPEX_DATABASE_URL", backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)
    finding = _doctor()
    assert finding.verdict is CheckVerdict.NOT_MET
    assert finding.figures == {"versions": 6, "waiting": 33}
    with pytest.raises(dspex.ProgramUnreadable, match=fault_of_depth()):
        client.program("deep")
    with pytest.raises(dspex.ProgramUnreadable, match=":isbn"):
        client.submit("typed", {"book": "0-19-852663-6"})

    # Another worker has all of it. The first one still takes messages, and gives them back.
    paths = f"{package(tmp_path / 'shop')}:{tmp_path}"
    able = start_worker(**allowed, PYTHONPATH=paths, SHOP_TOKEN="t")
    late += [client.submit("late", {"question": "?"}) for _ in range(20)]
    for execution in late:
        assert execution.result(timeout=60).answer
        assert execution.audit_trail.verify()
    assert {claims(execution)[-1] for execution in late} == {_id_of(database, able)}
    wait_for(lambda: statuses(database, ids) == {"completed"}, "the typed ones to complete")
    assert held(database) == dict.fromkeys(NOT_PROGRAMS, 2)
    assert _doctor().figures == {"versions": 6, "waiting": 8}


def _id_of(database: Database, worker: WorkerProcess) -> str:
    with database.engine.connect() as connection:
        given = {"pid": worker.pid}
        return str(connection.scalar(text("SELECT id FROM dspex.workers WHERE pid = :pid"), given))


def _doctor() -> Finding:
    deployment = Deployment()
    try:
        return work_checks.runnable.find(deployment)
    finally:
        deployment.close()
