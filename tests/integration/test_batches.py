"""Batches and waits through a real worker: any number of rows, in any order, by threads and by tasks."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

import dspex
from dspex.client.batch import WINDOW
from dspex.client.client import Client
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.submit.batch_rows import BatchRows
from tests.processes import WorkerProcess, environment_of, interruptible, run_dspex, run_module
from tests.waiting import wait_for

StartWorker = Callable[..., WorkerProcess]
QA = dspex.signature("question -> answer")
TIMEOUT = 120


def scripted(name: str = "qa", **fields: object) -> dspex.Program:
    return dspex.Program(name, QA, adapter="scripted", **fields)  # type: ignore[arg-type]


def questions(count: int) -> Iterator[dict[str, Any]]:
    return ({"question": f"number {n}"} for n in range(count))


@contextmanager
def statements(client: Client) -> Iterator[list[str]]:
    """What the client asks Postgres in the block."""
    asked: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(client._database.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(client._database.engine, "before_cursor_execute", note)


def test_batches_are_followed_as_they_finish_and_in_order(
    client: Client, backends: Backends, start_worker: StartWorker
) -> None:
    start_worker()
    client.deploy(scripted())
    rows: list[Any] = list(questions(1300))
    rows[5], rows[1299] = {"frage": "?"}, "no mapping"

    with statements(client) as asked:
        batch = client.submit_many("qa", iter(rows))
        finished = {execution.batch_index: execution for execution in batch.as_completed(timeout=TIMEOUT)}
    assert len(asked) < 600, "rows are asked for in groups"
    assert [rejected.index for rejected in batch.rejected] == [5, 1299]
    assert set(finished) == set(batch.indexes) == set(range(1300)) - {5, 1299}
    assert finished[7].inputs == rows[7]
    assert finished[7].id == batch.ids[6]

    # Another process finds the batch by its id, without Redis too: hints only make it sooner.
    with Client(database_url=backends.database_url, broker_url="redis://127.0.0.1:1/0") as other:
        again = other.batch(batch.id)
        assert (len(again), again.program, list(again.missing)) == (1298, "qa", [5])
        assert (again.progress.total, again.progress.completed) == (1298, 1298)
        assert again.progress.eta_seconds == 0.0
        assert [e.batch_index for e in again.in_order(timeout=TIMEOUT)] == list(batch.indexes)
        assert [e.batch_index for e in again.as_completed(timeout=0, skip=range(1, 1299))] == [0]
        fresh = other.submit_many("qa", questions(50))
        assert len(list(fresh.as_completed(timeout=TIMEOUT))) == 50
        with pytest.raises(dspex.ExecutionNotFound):
            other.batch(batch.ids[0])

    # map takes rows only as far as its window reaches, and answers in their order.
    taken = 0

    def counted() -> Iterator[Any]:
        nonlocal taken
        for taken, row in enumerate([*rows, *questions(1300)], 1):  # noqa: B007
            yield row

    results = client.map("qa", counted(), timeout=TIMEOUT, return_exceptions=True)
    first = next(results)
    assert taken <= WINDOW + 500
    everything = [first, *results]
    assert len(everything) == taken == 2600
    assert [n for n, r in enumerate(everything) if isinstance(r, dspex.ValidationError)] == [5, 1299]
    assert everything[7] == everything[1307] == finished[7].result()
    mapped = client.map("qa", rows, timeout=TIMEOUT)
    assert [next(mapped) for _ in range(5)] == everything[:5]
    with pytest.raises(dspex.ValidationError, match="question"):
        next(mapped)


def test_a_wait_ends_with_its_timeout_or_its_client(client: Client) -> None:
    client.deploy(scripted())
    batch = client.submit_many("qa", questions(3))
    with pytest.raises(dspex.ExecutionTimedOut, match="3 executions"):
        list(batch.as_completed(timeout=0.1))
    with pytest.raises(dspex.ExecutionTimedOut, match="3 executions"):
        list(batch.in_order(timeout=0))
    with pytest.raises(dspex.ExecutionTimedOut, match="no worker is alive"):
        client.get(batch.ids[0]).result(timeout=0.1)
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            client.get(batch.ids[0]).result()
        except dspex.DspexError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: client._session.connections.waiter._watches, "the wait to begin")
    client.close()
    thread.join(60)
    assert [error.code for error in failures if isinstance(error, dspex.DspexError)] == ["client_closed"]


def test_a_cut_connection_costs_no_row(client: Client, backends: Backends) -> None:
    client.deploy(scripted())
    admin = Database(backends.database_url, pool_size=1, application_name="operator")

    def rows() -> Iterator[dict[str, Any]]:
        for n, row in enumerate(questions(3500)):
            if n % 1000 == 500:
                admin.run(
                    lambda c: c.execute(
                        text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"),
                        {"name": "dspex client"},
                    ).all()
                )
            yield row

    batch = client.submit_many("qa", rows())
    assert (len(batch), client.batch(batch.id).size, client.progress(batch.id).queued) == (3500, 3500, 3500)
    # What was committed although its answer was lost is not stored twice, whatever the group it comes in.
    again = BatchRows(batch.id, "qa", size=3000)
    intake = client._submitter.intake(again, client.program("qa"))
    intake.add(list(questions(700)))
    assert (again.size, client.progress(batch.id).total) == (3700, 3700)
    admin.close()


# ----------------------------------------------------------------------------------------------------------- tasks


async def test_hundreds_of_tasks_wait_without_a_thread_each(backends: Backends, start_worker: StartWorker) -> None:
    start_worker(DSPEX_GRACE_SECONDS=0)
    async with dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url) as client:
        await client.deploy(scripted())
        await client.deploy(scripted("endless", module_options={"sleep_ms": 600_000}))
        async with asyncio.timeout(TIMEOUT):
            results = await asyncio.gather(*(client.execute("qa", row) for row in questions(500)))
        assert len(results) == 500
        assert results[3] == await client.execute("qa", {"question": "number 3"}, timeout=TIMEOUT)
        names = [thread.name.rpartition("_")[0] or thread.name for thread in threading.enumerate()]
        assert names.count("dspex-async") <= 10, "the batches of all tasks share these"
        assert names.count("dspex-waiter") == 0, "tasks listen"

        async def asynchronously() -> AsyncIterator[dict[str, Any]]:
            for row in questions(1200):
                yield row

        batch = await client.submit_many("qa", asynchronously())
        indexes = {e.batch_index async for e in batch.as_completed(timeout=TIMEOUT)}
        assert indexes == set(range(1200))
        assert (await batch.progress).completed == 1200
        again = await client.batch(batch.id)
        assert [e.batch_index async for e in again.in_order(timeout=TIMEOUT)] == list(range(1200))
        mapped = [r async for r in client.map("qa", [*questions(4), {}], timeout=TIMEOUT, return_exceptions=True)]
        assert mapped[:4] == results[:4]
        assert isinstance(mapped[4], dspex.ValidationError)

        execution = await client.submit("qa", {"question": "?"})
        await execution.result(timeout=TIMEOUT)
        assert execution.status is dspex.Status.COMPLETED
        assert (await execution.audit_trail).verify()
        assert await execution.inputs == {"question": "?"}
        assert execution.id in [e.id for e in await client.list(program="qa", limit=5)]

        endless = await client.submit("endless", {"question": "?"})
        with pytest.raises(dspex.ExecutionTimedOut):
            await endless.result(timeout=0.1)
        waiting = asyncio.create_task(endless.result())
        assert await endless.cancel()
        with pytest.raises(dspex.ExecutionCancelled):
            async with asyncio.timeout(TIMEOUT):
                await waiting
        # A task that is cancelled leaves nothing behind, and one that waits is told when the client is closed.
        other = await client.submit("endless", {"question": "?"})
        left, told = asyncio.create_task(other.result()), asyncio.create_task(other.result())
        watches = client._session.connections.waiter._watches
        await asyncio.to_thread(wait_for, lambda: len(watches.get(other.id.int, ())) == 2, "both to wait")
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert len(watches[other.id.int]) == 1
    with pytest.raises(dspex.DspexError, match="closed") as error:
        await told
    assert error.value.code == "client_closed"


FORKING = """
import os, sys
import dspex
from sqlalchemy import text

client = dspex.Client()
first = client.submit("qa", {"question": "parent"})
first.result(timeout=60)
asynchronous = dspex.AsyncClient()

async def ask(name):
    return await asynchronous.execute("qa", {"question": name}, timeout=60)

def session():
    return client._database.run(lambda c: c.scalar(text("SELECT pg_backend_pid()")))

import asyncio
asyncio.run(ask("before"))
expected = {n: client.execute("qa", {"question": str(n)}, timeout=60) for n in range(4)}
mine = session()
children = []
for n in range(4):
    pid = os.fork()
    if pid == 0:
        ok = session() != mine
        for _ in range(20):
            ok = ok and client.execute("qa", {"question": str(n)}, timeout=60) == expected[n]
        ok = ok and asyncio.run(ask(str(n))) == expected[n]
        client.close()
        sys.stdout.flush()
        os._exit(0 if ok else 1)
    children.append(pid)
ok = all(client.execute("qa", {"question": "0"}, timeout=60) == expected[0] for _ in range(20))
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert ok and codes == [0, 0, 0, 0], (ok, codes)
assert session() == mine, "the children left the parent's session alone"
client.close()
asyncio.run(asynchronous.close())
"""


def test_forked_children_have_connections_of_their_own(
    client: Client, backends: Backends, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    client.deploy(scripted())
    run = run_module("-c", FORKING, environment=environment_of(backends, {}), directory=tmp_path)
    assert run.returncode == 0, run.stderr


# ---------------------------------------------------------------------------------------------------- dspex batch


@pytest.fixture
def run_batch(backends: Backends, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, failpoints: str = "") -> subprocess.CompletedProcess[str]:
        environment = environment_of(backends, {"DSPEX_FAILPOINTS": failpoints})
        return run_dspex("batch", *arguments, environment=environment, directory=tmp_path)

    return run


RunBatch = Callable[..., "subprocess.CompletedProcess[str]"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("ordered", [False, True], ids=["as they finish", "ordered"])
def test_dspex_batch_killed_again_and_again_writes_each_row_once(
    client: Client, start_worker: StartWorker, run_batch: RunBatch, tmp_path: Path, ordered: bool
) -> None:
    start_worker()
    client.deploy(scripted())
    rows = [json.dumps(row) for row in questions(2300)]
    bad = {3: "rubbish", 1500: "", 1501: '{"question": 5}', 2299: "[]"}
    for index, line in bad.items():
        rows[index] = line
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n\n")
    command = ("qa", "in.jsonl", "-o", "out.jsonl", "--errors", "err.jsonl", *(["--ordered"] if ordered else []))

    for failpoints in (
        "after_batch_line=kill@1",  # a rejected row is noted, nothing is stored
        "between_chunks=kill@1",
        "between_chunks=kill@2",
        "after_batch_line=kill@3",  # all is stored, some of it is written, and none of that flushed
        "after_batch_line=kill@1200",  # in the middle of a line, as a buffer ends where it ends
        "after_batch_line=kill@900",
    ):
        killed = run_batch(*command, failpoints=failpoints)
        assert killed.returncode == -signal.SIGKILL, (failpoints, killed.stderr)
    assert client.list(limit=1)[0].batch_index == 2298, "all that fits is stored"
    # The program may be deployed anew meanwhile: a batch stays with the version it was begun with.
    client.deploy(scripted(module_options={"outputs": {"answer": "another"}}))
    finished = run_batch(*command)
    assert finished.returncode == 1, finished.stderr
    again = run_batch(*command, "--json")
    assert (again.returncode, json.loads(again.stdout)["completed"]) == (1, 2296)

    out, err = lines(tmp_path / "out.jsonl"), lines(tmp_path / "err.jsonl")
    assert sorted(line["index"] for line in out) == sorted(set(range(2300)) - set(bad))
    assert sorted(line["index"] for line in err) == sorted(bad)
    if ordered:
        assert out == sorted(out, key=lambda line: line["index"])
    for written in out[::500]:
        execution = client.get(written["id"])
        assert execution.inputs == {"question": f"number {written['index']}"}
        assert dict(execution.result(0)) == written["result"]
        assert execution.audit_trail.verify()
    assert client.progress(client.get(out[0]["id"]).batch_id).total == len(out)  # type: ignore[arg-type]
    assert {line["error"]["code"] for line in err} == {"validation_error"}


def test_results_of_retried_rows_take_their_place_in_an_ordered_output(
    client: Client, start_worker: StartWorker, run_batch: RunBatch, tmp_path: Path
) -> None:
    client.deploy(scripted())
    (tmp_path / "in.jsonl").write_text('{"question": "0"}\n{"question": "1"}\nrubbish\n{"question": "3"}\n')
    command = ("qa", "in.jsonl", "-o", "out.jsonl", "--ordered")
    assert run_batch(*command, failpoints="between_chunks=kill@1").returncode == -signal.SIGKILL
    first, second, last = sorted(client.list(), key=lambda execution: execution.id)
    assert first.cancel()
    assert last.cancel()
    start_worker()
    once = run_batch(*command)
    assert "1 completed: out.jsonl, 3 failed (2 cancelled, 1 rejected)" in once.stderr
    assert [line["index"] for line in lines(tmp_path / "out.jsonl")] == [1]

    client.retry(first.id)
    killed = run_batch(*command, failpoints="after_batch_line=kill@1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = run_batch(*command)
    assert "2 completed: out.jsonl, 2 failed (1 rejected, 1 cancelled)" in finished.stderr
    assert [line["index"] for line in lines(tmp_path / "out.errors.jsonl")] == [2, 3]
    written = lines(tmp_path / "out.jsonl")
    assert [(line["index"], line["id"]) for line in written] == [(0, str(first.id)), (1, str(second.id))]


def test_a_row_that_failed_again_is_written_with_its_last_failure(
    client: Client, start_worker: StartWorker, run_batch: RunBatch, tmp_path: Path
) -> None:
    start_worker()
    options = {"fail": {"code": "rate_limited", "times": 2}}
    client.deploy(scripted("failing", retry=dspex.Retry(max_attempts=1), module_options=options))
    (tmp_path / "in.jsonl").write_text('{"question": "1"}')
    command = ("failing", "in.jsonl", "-o", "out.jsonl")
    assert run_batch(*command).returncode == 1
    (first,) = lines(tmp_path / "out.errors.jsonl")
    assert client.retry_failed(batch=client.get(first["id"]).batch_id) == 1
    assert run_batch(*command).returncode == 1
    (second,) = lines(tmp_path / "out.errors.jsonl")
    assert (second["id"], client.get(second["id"]).attempts) == (first["id"], 2)


def test_dspex_batch_says_what_failed_and_what_does_not_fit(
    client: Client, start_worker: StartWorker, run_batch: RunBatch, tmp_path: Path
) -> None:
    start_worker()
    options = {"fail": {"code": "rate_limited", "times": 9}}
    client.deploy(scripted("failing", retry=dspex.Retry(max_attempts=1), module_options=options))
    client.deploy(scripted())
    (tmp_path / "in.jsonl").write_text('{"question": "1"}\n{"question": "2"}')
    failed = run_batch("failing", "in.jsonl", "-o", "out.jsonl")
    assert (failed.returncode, lines(tmp_path / "out.jsonl")) == (1, [])
    assert "2 rows: 0 completed" in failed.stderr
    assert "2 failed (2 rate_limited)" in failed.stderr
    assert "cost $0" in failed.stderr
    for line in lines(tmp_path / "out.errors.jsonl"):
        assert client.get(line["id"]).batch_index == line["index"]
        assert line["error"]["code"] == client.get(line["id"]).error.code  # type: ignore[union-attr]

    other = run_batch("qa", "in.jsonl", "-o", "out.jsonl", "--ordered")
    assert other.returncode == 2
    assert "program is 'failing'" in other.stderr
    assert "without --ordered" in other.stderr
    anew = run_batch("qa", "in.jsonl", "-o", "out.jsonl", "--restart")
    assert (anew.returncode, len(lines(tmp_path / "out.jsonl"))) == (0, 2), anew.stderr
    assert lines(tmp_path / "out.errors.jsonl") == []

    (tmp_path / "mine.jsonl").write_text("precious\n")
    refused = run_batch("qa", "in.jsonl", "-o", "mine.jsonl")
    assert refused.returncode == 2
    assert "--restart" in refused.stderr
    assert (tmp_path / "mine.jsonl").read_text() == "precious\n"


@pytest.mark.parametrize("output", ["-", "out.jsonl"])
def test_an_interrupted_batch_says_how_to_follow_it(
    client: Client, backends: Backends, tmp_path: Path, output: str
) -> None:
    client.deploy(scripted())
    (tmp_path / "in.jsonl").write_text('{"question": "1"}\n{"question": "2"}')
    command = ("batch", "qa", "in.jsonl", "-o", output)
    with interruptible(*command, backends=backends, directory=tmp_path) as run:
        assert run.stderr is not None
        wait_for(lambda: "no worker is alive" in run.stderr.readline(), "it to wait")  # type: ignore[union-attr]
        run.send_signal(signal.SIGINT)
        said = run.stderr.read()
    assert run.returncode == 130, said
    (batch,) = client.batches()
    assert f"`dspex cancel --batch {batch.id}`" in said
    if output == "-":
        assert "the same command begins another batch" in said
        assert f"`dspex list --batch {batch.id}`" in said
    else:
        assert "run the same command to follow it" in said
    assert batch.progress.total == 2


def test_rows_that_were_retried_reach_the_output_once(
    client: Client, start_worker: StartWorker, run_batch: RunBatch, tmp_path: Path
) -> None:
    start_worker()
    options = {"fail": {"code": "provider_unavailable", "times": 1}}
    client.deploy(scripted("flaky", retry=dspex.Retry(max_attempts=1), module_options=options))
    (tmp_path / "in.jsonl").write_text('{"question": "1"}\n{"question": 2}\n{"question": "3"}\n{"question": "4"}\n')
    command = ("flaky", "in.jsonl", "-o", "out.jsonl")
    assert run_batch(*command).returncode == 1
    failed = {line["index"]: line for line in lines(tmp_path / "out.errors.jsonl")}
    assert (sorted(failed), lines(tmp_path / "out.jsonl")) == ([0, 1, 2, 3], [])

    client.retry(failed[0]["id"])
    assert run_batch(*command).returncode == 1
    assert [line["index"] for line in lines(tmp_path / "out.jsonl")] == [0]
    assert {line["index"]: line for line in lines(tmp_path / "out.errors.jsonl")} == {n: failed[n] for n in (1, 2, 3)}

    assert client.retry_failed("flaky") == 2
    killed = run_batch(*command, failpoints="after_batch_line=kill@1")
    assert killed.returncode == -signal.SIGKILL
    finished = run_batch(*command, "--json")
    assert json.loads(finished.stdout)["completed"] == 3
    assert sorted(line["index"] for line in lines(tmp_path / "out.jsonl")) == [0, 2, 3]
    assert [line["index"] for line in lines(tmp_path / "out.errors.jsonl")] == [1]
