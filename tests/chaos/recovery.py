"""How long until a dead worker's work is done: DSPex beside plain Celery and DBOS, in one run.

``python -m tests.chaos.recovery [--only NAME …]`` prints a table. The workload of all three: 20 tasks of three model
calls of one second each, all taken by one worker, which is then killed in its second call; another worker, just as
able, stands by. Each system has 150 s. The peers get environments of their own in a temporary directory (``uv``).

finished   tasks whose last call was answered, of 20
seconds    from SIGKILL to the last of them; three are the work itself, two where the first call need not be repeated
ran twice  tasks that finished and were then finished again
paid twice calls that were answered, and answered again; a call in flight at the kill was never answered
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import redis
from rich.console import Console
from rich.table import Table

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.program.adapters import look_again
from dspex.settings import Backends
from dspex.store import migrate
from tests.chaos.guarantees import assert_guarantees
from tests.chaos.paid_calls import Bill
from tests.processes import Process, WorkerProcess, mortal
from tests.waiting import wait_for

TASKS = 20
STEPS = 3
BOUND_SECONDS = 150.0
#: How long the others are watched for work done again: longer than Celery's visibility timeout of 10 s.
AFTERWARDS_SECONDS = 12.0
HERE = Path(__file__).parent
#: Where `make setup` has it, unless it is installed.
UV = shutil.which("uv") or str(HERE.parents[1] / ".uv/bin/uv")


@dataclass(frozen=True)
class Figures:
    """What became of the 20 tasks."""

    system: str
    finished: int
    seconds: float | None
    ran_twice: int
    paid_twice: int
    calls_begun: int


class System(ABC):
    """A system under test: workers that can be started by name, and its way of submitting the tasks."""

    name: str
    #: Whether what a stopped worker is given waits until it is dead.
    keeps = False

    def __init__(self, servers: EmbeddedServers, bill: Bill, directory: Path) -> None:
        self.servers = servers
        self.bill = bill
        self.directory = directory

    @abstractmethod
    def prepare(self) -> None:
        """What is done before the clock runs."""

    @abstractmethod
    def start_worker(self, name: str) -> Process:
        """A worker that is ready for work."""

    @abstractmethod
    def submit(self) -> None:
        """Submit the tasks."""

    def done(self) -> bool:
        return self.bill.finished(STEPS) == TASKS

    def check(self) -> None:  # noqa: B027 - only DSPex promises something
        """What must hold afterwards."""


class DSPex(System):
    name = "DSPex"

    def prepare(self) -> None:
        self.backends = Backends((self.servers.database_url, self.servers.broker_url))
        self.client = Client(database_url=self.backends.database_url, broker_url=self.backends.broker_url)
        self.client._database.guard(migrate.upgrade)
        self.client.deploy(
            dspex.Program(
                "work",
                dspex.signature(":string question, :integer calls -> :string answer"),
                adapter="steps",
                module_options={"server": self.bill.url},
            )
        )

    def start_worker(self, name: str) -> Process:
        worker = WorkerProcess(self.backends, self.directory / f"dspex-{name}.log", {})
        worker.wait_until_ready()
        return worker.process

    def submit(self) -> None:
        rows = [{"question": f"task {number}", "calls": STEPS} for number in range(TASKS)]
        self.ids = [self.client.submit("work", row).id for row in rows]

    def done(self) -> bool:
        return all(row["status"] == "completed" for row in self.client._session.rows(self.ids))

    def check(self) -> None:
        assert_guarantees(self.client, self.ids)
        self.client.close()


class Peer(System):
    """A system in an environment of its own."""

    package: str
    script: str

    def prepare(self) -> None:
        environment = self.directory / self.name
        subprocess.run([UV, "venv", "--quiet", str(environment)], check=True)
        self.python = str(environment / "bin" / "python")
        subprocess.run([UV, "pip", "install", "--quiet", "--python", self.python, self.package], check=True)

    @abstractmethod
    def command(self, name: str) -> Sequence[str]:
        """The worker's command line."""

    def environment(self, name: str) -> dict[str, str]:
        return {
            **os.environ,
            "PEER_NAME": name,
            "PEER_MODEL": self.bill.url,
            "PEER_TASKS": str(TASKS),
            "PEER_BROKER": f"{self.servers.broker_url.rpartition('/')[0]}/7",
            "PEER_DATABASE": self.servers.database_url,
        }

    def start_worker(self, name: str) -> Process:
        log = self.directory / f"{self.name}-{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _dying_with_us(self.command(name)),
                env=self.environment(name),
                cwd=HERE / "peers",
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(lambda: " ready." in log.read_text(), f"{self.name}'s worker {name}")
        return process

    def submit(self) -> None:
        command = [self.python, self.script, "submit"]
        subprocess.run(command, env=self.environment("submit"), cwd=HERE / "peers", check=True)


class PlainCelery(Peer):
    name = "Celery"
    keeps = True
    package = "celery[redis]"
    script = "celery_peer.py"

    def command(self, name: str) -> Sequence[str]:
        options = ["--pool", "threads", "--concurrency", str(TASKS), "--hostname", f"{name}@%h", "--loglevel", "INFO"]
        return [self.python, "-m", "celery", "--app", "celery_peer", "worker", *options]


class DBOS(Peer):
    name = "DBOS"
    package = "dbos"
    script = "dbos_peer.py"

    def command(self, name: str) -> Sequence[str]:
        return [self.python, self.script, "work"]


SYSTEMS: dict[str, type[System]] = {system.name.lower(): system for system in (DSPex, PlainCelery, DBOS)}


def measure(kind: type[System]) -> Figures:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dspex-recovery-")))
        servers = stack.enter_context(EmbeddedServers(directory / "home", durable=False))
        bill = stack.enter_context(Bill())
        system = kind(servers, bill, directory)
        system.prepare()
        victim, other = (system.start_worker(name) for name in ("victim", "other"))
        stack.callback(_end, other)
        other.send_signal(signal.SIGSTOP)  # so that the victim takes all of it
        if system.keeps:
            _await_last_pop(servers.broker_url)
        system.submit()
        wait_for(lambda: sum(step == 1 for _, step in bill.begun) == TASKS, "every task's second call")
        other.send_signal(signal.SIGCONT)
        victim.kill()
        seconds = _seconds_until_done(system)
        time.sleep(AFTERWARDS_SECONDS)
        system.check()
        twice = sum(bill.paid[task, STEPS - 1] > 1 for task in range(TASKS))
        return Figures(system.name, bill.finished(STEPS), seconds, twice, bill.paid_twice, sum(bill.begun.values()))


def _await_last_pop(broker_url: str) -> None:
    """Wait until the last request of the stopped worker for a message is over: Redis would give it one."""
    with redis.Redis.from_url(broker_url) as client:

        def is_over() -> bool:
            pops = [each for each in client.client_list() if each["cmd"] == "brpop"]
            return any("b" not in each["flags"] and int(each["idle"]) >= 2 for each in pops)

        wait_for(is_over, "the stopped worker's last request for a message to end")


def _seconds_until_done(system: System) -> float | None:
    """Seconds from now until all is done; None when it is not within the bound."""
    began = time.monotonic()
    try:
        wait_for(system.done, "the tasks", timeout=BOUND_SECONDS)
    except AssertionError:
        return None
    return time.monotonic() - began


def _end(process: Process) -> None:
    process.kill()
    process.wait()


def _dying_with_us(command: Sequence[str]) -> list[str]:
    return [*mortal()[:-1], *command]


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from a worker's death to its work's completion.")
    parser.add_argument("--only", nargs="+", choices=sorted(SYSTEMS), default=list(SYSTEMS))
    plugin = str(HERE / "plugin")
    sys.path.insert(0, plugin)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), plugin])
    look_again()
    table = Table("system", "finished", "seconds", "ran twice", "paid twice", "calls begun (60 needed)")
    for name in parser.parse_args().only:
        found = measure(SYSTEMS[name])
        print(found, flush=True)
        seconds = f"more than {BOUND_SECONDS:.0f}" if found.seconds is None else f"{found.seconds:.1f}"
        table.add_row(
            found.system, f"{found.finished} of {TASKS}", seconds, str(found.ran_twice), str(found.paid_twice),
            str(found.calls_begun),
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
