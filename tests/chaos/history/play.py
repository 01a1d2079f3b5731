"""One history: the processes, the faults, and at the end what everybody saw and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dspex
from tests.chaos.history.account import Account, account_of
from tests.chaos.history.evidence import READER
from tests.chaos.history.host import FakeClock, fake_clock_missing, small_disk
from tests.chaos.history.nemesis import FAULTS, Nemesis, Scene
from tests.chaos.history.programs import PAUSED
from tests.chaos.history.record import Recorder, read_history
from tests.chaos.history.snapshots import snapshot, trail_of
from tests.chaos.history.stage import scene

__all__ = ["LONG", "SHORT", "Plan", "play"]

DISK_MEGABYTES = 768
ALL = 10**6


@dataclass(frozen=True)
class Plan:
    """For how long, against how many workers, and with which faults; ``patience_seconds`` for all to become final."""

    seconds: float
    workers: int
    faults: Sequence[str]
    pause_seconds: float
    patience_seconds: float
    #: Whether the servers write to a file system of their own, which may fill and is as fast as memory.
    own_disk: bool


#: What needs neither a file system nor a clock of its own, and is over within seconds.
SHORT = Plan(
    seconds=10,
    workers=2,
    faults=(
        "kill_worker", "freeze_worker", "kill_client", "cut_redis", "cut_postgres", "empty_redis", "flood",
        "forge_queue", "forge_replays", "forge_hints",
    ),
    pause_seconds=0.5,
    patience_seconds=240,
    own_disk=False,
)  # fmt: skip
LONG = Plan(
    seconds=240,
    workers=3,
    faults=tuple(FAULTS),
    pause_seconds=1.0,
    patience_seconds=240,
    own_disk=True,
)


def play(plan: Plan, seed: int, directory: Path) -> Account:
    """A history by this plan, in an empty directory, and its account."""
    history = directory / "history"
    history.mkdir()
    with _home(plan, directory) as (home, no_disk), Recorder(history, "nemesis") as recorder:
        no_clock = fake_clock_missing()
        faults, left_out = _possible(plan, {"fill_disk": no_disk, "step_postgres": no_clock})
        clock = FakeClock(directory / "postgres.clock") if "step_postgres" in faults else None
        disk = home.parent if "fill_disk" in faults else None
        with scene(
            directory,
            recorder,
            home=home,
            disk=disk,
            clock=clock,
            workers=plan.workers,
            seed=seed,
            durable="crash_postgres" in faults,
        ) as everything:
            Nemesis(everything, recorder, seed, faults, plan.pause_seconds).strike(plan.seconds)
            everything.clients.finish()
            with Recorder(history, READER) as reader:
                _read_all(reader, everything, plan.patience_seconds)
    return account_of(seed, read_history(history), left_out)


@contextmanager
def _home(plan: Plan, directory: Path) -> Iterator[tuple[Path, str | None]]:
    """Where the servers write: on a small disk of their own if the plan has one, or why there is none."""
    if plan.own_disk:
        with small_disk(directory / "disk", DISK_MEGABYTES) as no_disk:
            yield directory / "disk" / "home", no_disk
    else:
        yield directory / "home", None


def _possible(plan: Plan, obstacles: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    """The faults of a plan that this machine allows, and why the others are left out."""
    possible = [fault for fault in plan.faults if obstacles.get(fault) is None]
    return possible, [f"{fault}: {obstacles[fault]}" for fault in plan.faults if fault not in possible]


def _read_all(recorder: Recorder, scene: Scene, patience_seconds: float) -> None:
    """Everything, once it is final, or when it does not become so."""
    client = scene.direct
    client.resume(PAUSED)
    until = time.monotonic() + patience_seconds
    while time.monotonic() < until and _is_unsettled(client):
        scene.fleet.tend()
        time.sleep(0.5)
    with recorder.operation("read_all") as seen:
        seen["executions"] = [_read(client, execution) for execution in client.list(limit=ALL)]
    with recorder.operation("count_calls") as seen:
        seen["made"] = scene.models.calls()["by_hash"]


def _is_unsettled(client: dspex.Client) -> bool:
    return any(client.list(status=status, limit=1) for status in ("queued", "running", "waiting"))


def _read(client: dspex.Client, execution: dspex.Execution) -> dict[str, object]:
    inputs = execution.inputs
    asked = {name: inputs[name] for name in ("question", "calls")}
    return {**snapshot(execution), **asked, "trail": trail_of(client.audit_trail(execution.id))}
