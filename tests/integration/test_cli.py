"""The command line, as somebody types it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.ports import free_port
from dspex.publish.channels import DONE_CHANNEL
from dspex.publish.redis_clients import client as redis_client
from dspex.settings import Backends
from dspex.store.database import Database
from tests.conftest import fresh_backends
from tests.processes import WorkerProcess, environment_of, interruptible, run_dspex
from tests.store.test_executions import claim, dispatch_due, register
from tests.waiting import wait_for

PROGRAMS = """
import dspex

qa = dspex.Program("qa", "question -> answer", adapter="scripted", module_options={"outputs": {"answer": "Paris"}})
typed = dspex.Program(
    "typed", ":integer n, :list(:string) words, :optional(:boolean) flag -> :integer total",
    adapter="scripted", module_options={"outputs": {"total": 7}},
)
doomed = dspex.Program(
    "doomed", "question -> answer", adapter="scripted", module_options={"fail": {"code": "billing", "times": 9}},
    retry=dspex.Retry(1),
)
"""

#: JSON that no parser of Python reads.
NESTED = "[" * 5000 + "]" * 5000


class Shell:
    def __init__(self, backends: Backends, place: Path) -> None:
        self._environment = environment_of(backends, {})
        self._place = place

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_dspex(*arguments, environment=self._environment | environment, directory=self._place)


def shell_in(place: Path, backends: Backends) -> Shell:
    """A shell in a directory with programs, and with files that are none."""
    (place / "programs.py").write_text(PROGRAMS)
    (place / "broken.py").write_text("answer = 0\n1 / answer\n")
    (place / "list.json").write_text("[]")
    (place / "nested.json").write_text(NESTED)
    (place / "full.html").symlink_to("/dev/full")
    (place / "rows.jsonl").write_text('{"question": "France?", "answer": "Paris"}\n')
    return Shell(backends, place)


@pytest.fixture
def shell(backends: Backends, tmp_path: Path) -> Shell:
    return shell_in(tmp_path, backends)


@pytest.fixture(scope="module")
def deployed(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell where the programs are deployed, for tests that change nothing."""
    with fresh_backends(servers) as backends:
        shell = shell_in(tmp_path_factory.mktemp("deployed"), backends)
        assert shell("deploy", "programs.py").returncode == 0
        assert shell("dataset", "capitals", "rows.jsonl", "--input", "question").returncode == 0
        yield shell


def test_deploy_run_list_show(shell: Shell, start_worker: Callable[..., WorkerProcess]) -> None:
    start_worker()
    deployed = shell("deploy", "programs.py", "--json")
    assert {row["name"] for row in json.loads(deployed.stdout)} == {"qa", "typed", "doomed"}

    answered = shell("run", "qa", "question=What is the capital of France?")
    assert (answered.returncode, answered.stdout) == (0, "answer: Paris\n")
    typed = shell("run", "typed", "n=5", 'words=["a", "b"]', "flag=true", "--json")
    assert json.loads(typed.stdout)["result"] == {"total": 7}

    failed = shell("run", "doomed", "question=?")
    assert failed.returncode == 1
    assert failed.stderr.startswith("attempts_exhausted: execution ")
    assert "Traceback" not in failed.stderr

    rows = json.loads(shell("list", "--json").stdout)
    assert [row["program"] for row in rows] == ["doomed", "typed", "qa"]
    assert [row["status"] for row in rows] == ["failed", "completed", "completed"]
    dead_letters = json.loads(shell("list", "--status", "failed", "--json").stdout)
    assert [(row["error"]["code"], row["cause_code"]) for row in dead_letters] == [("attempts_exhausted", "billing")]
    assert "failed, of those listed: 1 billing" in shell("list").stdout

    shown = shell("show", rows[2]["id"])
    assert shown.returncode == 0
    assert "What is the capital of France?" in shown.stdout
    assert "the hash chain is intact" in shown.stdout
    assert "call 1  scripted  attempt 1, 10+5 tokens, cost $0" in shell("show", rows[2]["id"], "--calls").stdout
    data = json.loads(shell("show", rows[2]["id"], "--json").stdout)
    assert data["audit"]["whole"]
    assert data["result"] == {"answer": "Paris"}

    (worker,) = json.loads(shell("workers", "--json").stdout)
    assert worker["state"] == "running"


def test_show_names_no_figures_of_an_attempt_before_it_has_ended(
    client: Client, database: Database, shell: Shell
) -> None:
    assert shell("deploy", "programs.py").returncode == 0
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    now, later = client.submit("qa", {"question": "?"}), client.submit("qa", {"question": "?"}, run_at=tomorrow)
    shown = shell("show", str(now.id)).stdout
    assert "queued  qa@" in shown
    assert "no attempt was begun" in shown
    assert "begins at" not in shown
    assert f"begins at {tomorrow:%Y-%m-%d %H:%M:%S} UTC" in shell("show", str(later.id)).stdout
    assert later.cancel()
    shown = shell("show", str(later.id)).stdout
    assert "no attempt was begun" in shown
    assert not re.search(r"begins at|0 ms|model calls", shown.partition("inputs")[0])
    dispatch_due(database)
    assert len(claim(database, register(database), now.id)) == 1
    shown = shell("show", str(now.id)).stdout
    assert f"attempt 1, begun at {now.refresh().started_at:%Y-%m-%d %H:%M:%S} UTC" in shown
    assert not re.search(r"0 ms|model calls", shown.partition("inputs")[0])


def test_an_interrupted_run_says_which_execution_continues(client: Client, shell: Shell, backends: Backends) -> None:
    assert shell("deploy", "programs.py").returncode == 0
    with interruptible("run", "qa", "question=?", backends=backends) as run, redis_client(backends.broker_url) as redis:
        wait_for(lambda: redis.pubsub_channels(DONE_CHANNEL), "the command to wait")
        run.send_signal(signal.SIGINT)
        _, said = run.communicate()
    (execution,) = client.list()
    assert run.returncode == 130, said
    assert f"the execution continues: `dspex stream {execution.id}` follows it" in said
    assert f"`dspex cancel {execution.id}` cancels it" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "nobody"), 2, "program_not_found: no program 'nobody' is deployed"),
        (("run", "qa"), 2, "validation_error: "),
        (("run", "qa", "question"), 2, "'question' is not KEY=VALUE"),
        (("audit", "anchor", "--url", "notaurl"), 2, "Invalid value for '--url': not an http:// or https:// address"),
        (("audit", "anchor", "--url", "http://[::1"), 2, "Invalid value for '--url'"),
        (("dataset", "capitls"), 2, "a stored dataset, did you mean 'capitals'? `dspex dataset` lists all of them"),
        (("dataset", "capitals", "--version", "0" * 16), 2, "a version of dataset 'capitals', the newest is "),
        (("dataset", "more", "--from", "qaa"), 2, "no program 'qaa' is deployed; did you mean 'qa'?"),
        (("dataset", "more", "--from", "qa"), 2, "at least one that completed or has corrected outputs"),
        (("dataset", "--input", "question"), 2, "--input needs FILE"),
        (("dataset", "--version", "0" * 16), 2, "--version needs NAME"),
        (("dataset", "capitals", "--limit", "5"), 2, "--limit needs --from"),
        (("dataset", "more", "rows.jsonl", "--version", "0" * 16), 2, "--version is of a stored dataset"),
        (("dataset", "capitals", "-o", "/dev/full"), 1, "file_error: /dev/full: No space left on device"),
        (("report", "-o", "full.html"), 1, "file_error: full.html: No space left on device"),
        (("run", "qa", "question=a", "question=b"), 2, "input 'question' is given more than once"),
        (("list", "--metadata", "a=1", "--metadata", "a=2"), 2, "--metadata 'a' is given more than once"),
        (
            ("batch", "qa", "programs.py", "-o", "out.jsonl", "--map", "question=a", "--map", "question=b"),
            2,
            "--map 'question' is given more than once",
        ),
        (
            ("optimize", "qa", "rows", "--metric", "exact", "--option", "a=1", "--option", "a=2"),
            2,
            "--option 'a' is given more than once",
        ),
        (("run", "qa", "question=?", "--timeout", "nan"), 2, "Invalid value for '--timeout': 'nan' is not a finite"),
        (("run", "qa", "question=?", "--timeout", "-1"), 2, "Invalid value for '--timeout'"),
        (("run", "typed", "n=five", "words=[]"), 2, "n: expected an integer"),
        (("run", "typed", "n=5", f"words={NESTED}"), 2, "words: expected a list"),
        (("bench", "--program", "qa", "--input", NESTED), 2, "is not a JSON object"),
        (("optimize", "qa", "rows", "--metric", "exact", "--option", f"a={NESTED}"), 2, "rows"),
        (("show", "not-an-id"), 2, "execution_not_found: 'not-an-id' is not an execution id"),
        (("show", "01a20332-1a1e-73dc-8d8e-0c9a0068509e"), 2, "execution_not_found"),
        (("deploy", "nothing.py"), 2, "nothing.py"),
        (("deploy", "broken.py"), 2, "broken.py, line 2: ZeroDivisionError: division by zero"),
        (("deploy", "nested.json"), 2, "nested.json is not JSON"),
        (("deploy", "list.json"), 2, "list.json does not hold programs by name"),
        (("batch", "qa", "programs.py", "-o", "nowhere/out.jsonl"), 2, "file_error: nowhere/out.jsonl: No such file"),
        (("list", "--status", "lost"), 2, "lost"),
        (("telepathy",), 2, "No such command"),
    ],
)
def test_wrong_usage_is_reported_in_one_line(deployed: Shell, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = deployed(*arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_reported_before_anything_is_tried(shell: Shell) -> None:
    for command in ("list", "worker", "beat", "flower"):
        done = shell(command, DSPEX_LEASE_SECONDS="soon", DSPEX_WORKER_CONCURRENCY="0")
        assert done.returncode == 2
        assert done.stderr.startswith("configuration_error: invalid settings:")
        assert "DSPEX_LEASE_SECONDS" in done.stderr
        assert "DSPEX_WORKER_CONCURRENCY" in done.stderr


def test_backends_out_of_reach_are_exit_code_3(shell: Shell, backends: Backends) -> None:
    nowhere = f"postgresql://dspex:hunter22@127.0.0.1:{free_port()}/dspex"
    for arguments in (("list",), ("run", "qa", "question=?"), ("migrate",)):
        done = shell(*arguments, DSPEX_DATABASE_URL=nowhere)
        assert done.returncode == 3
        assert "Postgres at postgresql://dspex:***@127.0.0.1" in done.stderr
        assert "hunter22" not in done.stdout + done.stderr


def test_without_a_stack_it_says_how_to_get_one(fork_server: None, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DSPEX_")}
    done = run_dspex("list", environment=environment | {"DSPEX_HOME": str(tmp_path)}, directory=tmp_path)
    assert done.returncode == 3
    assert "dspex up" in done.stderr


@pytest.fixture
def bare(servers: EmbeddedServers, backends: Backends) -> Backends:
    return Backends((f"{servers.database_url.rsplit('/', 1)[0]}/postgres", backends.broker_url))


def test_a_worker_refuses_a_database_without_the_schema(bare: Backends, tmp_path: Path) -> None:
    done = Shell(bare, tmp_path)("worker")
    assert done.returncode != 0
    assert "dspex migrate" in done.stdout + done.stderr
