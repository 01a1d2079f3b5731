"""One history: the processes, the faults, and at the end what everybody saw and what is wrong with it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.settings import Backends
from dspex.store import migrate
from dspex.store.database import Database
from tests.chaos.history.checker import Violation, check
from tests.chaos.history.clients import DELAYS_MS
from tests.chaos.history.evidence import READER, Evidence
from tests.chaos.history.fleet import Fleet
from tests.chaos.history.forgeries import Forger
from tests.chaos.history.host import FakeClock, fake_clock_missing, small_disk, stepped_postgres
from tests.chaos.history.nemesis import FAULTS, Nemesis, Scene
from tests.chaos.history.processes import Clients
from tests.chaos.history.programs import PAUSED, programs
from tests.chaos.history.record import Operation, Recorder, read_history
from tests.chaos.history.snapshots import snapshot, trail_of
from tests.chaos.history.trails import losses
from tests.chaos.proxy import Proxy
from tests.model_server import ModelServer, Step
from tests.waiting import wait_for

__all__ = ["LONG", "SHORT", "Account", "Plan", "play"]

DISK_MEGABYTES = 768
LEASE_SECONDS = 5
ALL = 10**6
SHOWN_MOST = 5


@dataclass(frozen=True)
class Plan:
    """For how long, against how many workers, and with which faults; ``patience_seconds`` for all to become final."""

    seconds: float
    workers: int
    faults: Sequence[str]
    pause_seconds: float
    patience_seconds: float
    #: Faults to leave out, each with the reason.
    without: Mapping[str, str] = field(default_factory=dict)


#: What needs neither a file system nor a clock of its own, and is over within seconds.
SHORT = Plan(
    seconds=20,
    workers=2,
    faults=(
        "kill_worker", "freeze_worker", "kill_client", "cut_redis", "cut_postgres", "empty_redis", "flood",
        "forge_queue", "forge_replays", "forge_hints",
    ),
    pause_seconds=1.0,
    patience_seconds=60,
)  # fmt: skip
#: Faults that are not survived yet, and why: they are left out of the long plan.
NOT_SURVIVED = {
    "fill_disk": "a full disk ends workers (MISCONF of Redis) and reaches clients as an error of SQLAlchemy",
    "forge_channels": "one byte on dspex:done that is not UTF-8 ends all waiting of a client",
    "forge_streams": "an entry of another shape ends stream() with AttributeError, KeyError or UnicodeDecodeError",
    "forge_types": "a key of another type in Redis ends every worker that reads it",
    "step_postgres": "a step forward has living workers declared dead",
}
LONG = Plan(seconds=240, workers=3, faults=tuple(FAULTS), pause_seconds=1.0, patience_seconds=240, without=NOT_SURVIVED)

#: What each fault needs of the machine, by its name.
_NEEDS_DISK = frozenset({"fill_disk"})
_NEEDS_CLOCK = frozenset({"step_postgres"})


@dataclass(frozen=True)
class Account:
    """What a history came to. ``left_out`` says which faults this machine does not allow, and why."""

    seed: int
    operations: int
    acknowledged: int
    stored: int
    unknown: int
    faults: Counter[str]
    lost_attempts: int
    calls_made: int
    calls_needed: int
    violations: Sequence[Violation]
    left_out: Sequence[str]

    def __str__(self) -> str:
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        lines = [
            f"CHAOS_SEED={self.seed}: {self.operations} operations, {self.unknown} of unknown outcome; "
            f"{self.acknowledged} submits acknowledged, {self.stored} executions stored",
            f"faults: {faults}",
            f"{self.lost_attempts} attempts lost; {self.calls_needed} calls needed, {self.calls_made} made",
            *(f"left out: {why}" for why in self.left_out),
            *self._violations(),
        ]
        return "\n".join(lines)

    def _violations(self) -> Iterator[str]:
        """The first violations of each rule, and how many more there are."""
        for rule, count in Counter(violation.rule for violation in self.violations).items():
            first = [violation for violation in self.violations if violation.rule == rule][:SHOWN_MOST]
            yield from (f"violation of {violation}" for violation in first)
            if count > len(first):
                yield f"violation of {rule}: {count - len(first)} more"


def play(plan: Plan, seed: int, directory: Path) -> Account:
    """A history by this plan, in an empty directory, and its account."""
    history = directory / "history"
    history.mkdir()
    with ExitStack() as stack:
        left_out = _perform(plan, seed, directory, history, stack)
    return _account(seed, read_history(history), left_out)


def _perform(plan: Plan, seed: int, directory: Path, history: Path, stack: ExitStack) -> list[str]:
    no_disk = stack.enter_context(small_disk(directory / "disk", DISK_MEGABYTES))
    no_clock = fake_clock_missing()
    clock = None if no_clock else FakeClock(directory / "postgres.clock")
    servers = _servers(directory, clock, stack)
    server = stack.enter_context(ModelServer())
    server.script(*(Step(delay_ms=ms, match=f"takes {ms} ms", times=10**9) for ms in DELAYS_MS))
    direct = stack.enter_context(dspex.Client(database_url=servers.database_url, broker_url=servers.broker_url))
    for program in programs(server.url):
        direct.deploy(program)
    links = {
        (party, name): stack.enter_context(Proxy(url))
        for party in ("clients", "workers")
        for name, url in (("postgres", servers.database_url), ("redis", servers.broker_url))
    }
    recorder = stack.enter_context(Recorder(history, "nemesis"))
    fleet = Fleet(_through(links, "workers"), directory, recorder, {"DSPEX_LEASE_SECONDS": LEASE_SECONDS}, plan.workers)
    stack.callback(fleet.stop)
    wait_for(lambda: len(direct.workers()) == plan.workers, "the fleet", timeout=60)
    clients = Clients(_through(links, "clients"), history, directory, seed, server.url)
    stack.callback(clients.stop)
    clients.wait_until_begun()
    forger = Forger(servers.broker_url)
    stack.callback(forger.close)
    scene = Scene(
        servers, fleet, clients, links, direct, forger,
        disk=None if no_disk else directory / "disk", clock=clock,
    )  # fmt: skip
    faults, left_out = _possible(plan, no_disk, no_clock)
    Nemesis(scene, recorder, seed, faults, plan.pause_seconds).strike(plan.seconds)
    clients.finish()
    with Recorder(history, READER) as reader:
        _read_all(reader, direct, server, fleet, plan.patience_seconds)
    return left_out


def _servers(directory: Path, clock: FakeClock | None, stack: ExitStack) -> EmbeddedServers:
    """Postgres and Redis on the small disk, migrated; Postgres with a clock of its own."""
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    if clock is not None:
        patch.setenv("DSPEX_EMBEDDED_POSTGRES_BIN", str(stepped_postgres(directory / "bin", clock)))
    servers = stack.enter_context(EmbeddedServers(directory / "disk" / "home", durable=True))
    database = Database(servers.database_url)
    migrate.upgrade(database.engine)
    database.close()
    return servers


def _through(links: dict[tuple[str, str], Proxy], party: str) -> Backends:
    return Backends((links[party, "postgres"].url, links[party, "redis"].url))


def _possible(plan: Plan, no_disk: str | None, no_clock: str | None) -> tuple[list[str], list[str]]:
    """The faults of a plan that this machine allows, and why the others are left out."""
    reasons = {**dict.fromkeys(_NEEDS_DISK, no_disk), **dict.fromkeys(_NEEDS_CLOCK, no_clock), **plan.without}
    possible = [fault for fault in plan.faults if reasons.get(fault) is None]
    return possible, [f"{fault}: {reasons[fault]}" for fault in plan.faults if fault not in possible]


def _read_all(
    recorder: Recorder, client: dspex.Client, server: ModelServer, fleet: Fleet, patience_seconds: float
) -> None:
    """Everything, once it is final, or when it does not become so."""
    client.resume(PAUSED)
    until = time.monotonic() + patience_seconds
    while time.monotonic() < until and _is_unsettled(client):
        fleet.tend()
        time.sleep(0.5)
    with recorder.operation("read_all") as seen:
        seen["executions"] = [_read(client, execution) for execution in client.list(limit=ALL)]
    with recorder.operation("count_calls") as seen:
        seen["made"] = server.calls()["by_hash"]


def _is_unsettled(client: dspex.Client) -> bool:
    return any(client.list(status=status, limit=1) for status in ("queued", "running"))


def _read(client: dspex.Client, execution: dspex.Execution) -> dict[str, object]:
    inputs = execution.inputs
    asked = {name: inputs[name] for name in ("question", "calls")}
    return {**snapshot(execution), **asked, "trail": trail_of(client.audit_trail(execution.id))}


def _account(seed: int, history: Sequence[Operation], left_out: Sequence[str]) -> Account:
    evidence = Evidence(history)
    lost = sum(len(losses(snapshot["trail"]["events"])) for snapshot in evidence.stored.values())
    return Account(
        seed=seed,
        operations=len(history),
        acknowledged=len(evidence.acknowledged),
        stored=len(evidence.stored),
        unknown=sum(operation.outcome == "unknown" for operation in history),
        faults=Counter(fault.given["kind"] for fault in evidence.of("fault")),
        lost_attempts=lost,
        calls_made=sum(evidence.made.values()),
        calls_needed=len(evidence.made),
        violations=check(history),
        left_out=left_out,
    )
