"""The nemesis: kills, stops, cuts, delays, floods, empties, fills, steps and forges, one fault after another.

It has two hands that strike at the same time: one at processes, one at what they share. Each deals the faults it may
use in a random order, all of them before any returns. Every fault is recorded with when it began and ended.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from tests.chaos.history.fleet import Fleet
from tests.chaos.history.forgeries import FORGERIES, Forger
from tests.chaos.history.host import FakeClock
from tests.chaos.history.processes import Clients
from tests.chaos.history.programs import FLOOD
from tests.chaos.history.record import Recorder
from tests.chaos.proxy import Proxy
from tests.model_server import ModelServer

__all__ = ["FAULTS", "Nemesis", "Scene"]

FLOOD_ROWS = 500
#: What a full disk is filled with at a time: less than this is left of it.
BLOCK_BYTES = 4096
#: The latest executions, which forged messages are about.
KNOWN_IDS = 200


@dataclass(frozen=True)
class Scene:
    """What there is to strike at. ``links`` are the proxies between a party and a backend."""

    servers: EmbeddedServers
    models: ModelServer
    fleet: Fleet
    clients: Clients
    links: Mapping[tuple[str, str], Proxy]
    #: A client whose connections no fault touches.
    direct: dspex.Client
    forger: Forger
    #: The file system that the servers write to, if it is one of their own.
    disk: Path | None
    #: Postgres' clock, if it has one of its own.
    clock: FakeClock | None


@dataclass(frozen=True)
class Strike:
    """One fault about to happen: where, by what chance, and how it is recorded."""

    scene: Scene
    recorder: Recorder
    chance: random.Random

    def fault(self, kind: str, **given: Any) -> AbstractContextManager[dict[str, Any]]:
        return self.recorder.operation("fault", kind=kind, **given)

    def hold(self, least: float, most: float) -> None:
        """Let the fault last."""
        time.sleep(self.chance.uniform(least, most))


class Nemesis:
    """Strikes for so many seconds, in two threads."""

    def __init__(
        self, scene: Scene, recorder: Recorder, seed: int, faults: Sequence[str], pause_seconds: float
    ) -> None:
        self._scene = scene
        self._recorder = recorder
        self._pause = pause_seconds
        self._decks = [[f for f in faults if f in PROCESSES], [f for f in faults if f not in PROCESSES]]
        self._seed = seed

    def strike(self, seconds: float) -> None:
        """Until the time is over; nothing is left broken."""
        until = time.monotonic() + seconds
        hands = [
            threading.Thread(target=self._hand, args=(deck, random.Random(f"{self._seed} {number}"), until))
            for number, deck in enumerate(self._decks)
            if deck
        ]
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join()

    def _hand(self, deck: Sequence[str], chance: random.Random, until: float) -> None:
        for name in _dealt(deck, chance):
            time.sleep(chance.uniform(0, 2 * self._pause))
            if time.monotonic() > until:
                return
            FAULTS[name](Strike(self._scene, self._recorder, chance))
            self._scene.fleet.tend()


def _dealt(deck: Sequence[str], chance: random.Random) -> Iterator[str]:
    while True:
        yield from chance.sample(deck, len(deck))


# ------------------------------------------------------------------------------------------------------- processes


def kill_worker(strike: Strike) -> None:
    strike.scene.fleet.kill(strike.chance)


def freeze_worker(strike: Strike) -> None:
    """Stop a worker, some longer than its lease."""
    strike.scene.fleet.freeze(strike.chance, strike.chance.uniform(1, 8))


def kill_client(strike: Strike) -> None:
    """Kill a client in the middle of whatever it does; another takes its place."""
    with strike.fault("kill_client"):
        strike.scene.clients.kill(strike.chance)


# --------------------------------------------------------------------------------------------------------- network


def _network(act: str, backend: str, strike: Strike) -> None:
    party = strike.chance.choice(("clients", "workers"))
    proxy = strike.scene.links[party, backend]
    with strike.fault(f"{act}_{backend}", link=party):
        if act == "delay":
            proxy.delay(0.05)
        else:
            getattr(proxy, act)()
        strike.hold(0.5, 6)
        proxy.restore()


# -------------------------------------------------------------------------------------------------------- backends


def empty_redis(strike: Strike) -> None:
    with strike.fault("empty_redis"), redis.Redis.from_url(strike.scene.servers.broker_url) as connection:
        connection.flushall()


def restart_redis(strike: Strike) -> None:
    with strike.fault("restart_redis"):
        strike.scene.servers.redis.stop()
        strike.hold(0, 2)
        strike.scene.servers.redis.begin()


def restart_postgres(strike: Strike) -> None:
    with strike.fault("restart_postgres"):
        strike.scene.servers.postgres.stop()
        strike.hold(0, 2)
        strike.scene.servers.postgres.begin()


def crash_postgres(strike: Strike) -> None:
    """End Postgres without a shutdown: its next start recovers from what is on disk."""
    with strike.fault("crash_postgres"):
        os.kill(strike.scene.servers.postgres.process.pid, signal.SIGQUIT)
        _revive(strike.scene.servers)


def fill_disk(strike: Strike) -> None:
    """Leave no room where the servers write. Postgres refuses what needs more, or ends."""
    assert strike.scene.disk is not None
    filler = strike.scene.disk / "filler"
    with strike.fault("fill_disk"):
        try:
            _write_until_full(filler)
            strike.hold(2, 6)
        finally:
            filler.unlink()
        _revive(strike.scene.servers)


def _write_until_full(file: Path) -> None:
    block = bytes(BLOCK_BYTES)
    try:
        with file.open("wb", buffering=0) as filler:
            while filler.write(block) == BLOCK_BYTES:
                pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _revive(servers: EmbeddedServers) -> None:
    """Wait until Postgres answers; start it again if it has ended."""
    if servers.postgres.process.wait(2.0):
        servers.postgres.stop()
        servers.postgres.begin()


# ---------------------------------------------------------------------------------------- load, clocks and messages


def flood(strike: Strike) -> None:
    """Submit hundreds of executions at once."""
    number = strike.chance.randrange(10**9)
    rows = [{"question": f"flood {number} ({row})", "calls": 0, "fails": 0} for row in range(FLOOD_ROWS)]
    with strike.fault("flood"):
        questions = [row["question"] for row in rows]
        with strike.recorder.operation("submit_many", program=FLOOD, questions=questions) as seen:
            submitted = strike.scene.direct.submit_many(FLOOD, rows)
            seen |= {"batch": str(submitted.id), "ids": [str(id) for id in submitted.ids]}


def step_postgres(strike: Strike) -> None:
    """Set Postgres' clock forward or back."""
    clock = strike.scene.clock
    assert clock is not None
    seconds = strike.chance.choice((60.0, -20.0))
    with strike.fault("step_postgres", ahead_seconds=clock.ahead_seconds + seconds):
        clock.step(seconds)


def _forge(kind: str, strike: Strike) -> None:
    ids = [execution.id for execution in strike.scene.direct.list(limit=KNOWN_IDS)]
    # Redis may refuse one forgery because of another: a key has the wrong type for a moment.
    with strike.fault(f"forge_{kind}"), suppress(redis.ResponseError, dspex.BackendUnavailable):
        FORGERIES[kind](strike.scene.forger, ids, strike.chance)


PROCESSES: Mapping[str, Callable[[Strike], None]] = {
    "kill_worker": kill_worker,
    "freeze_worker": freeze_worker,
    "kill_client": kill_client,
}
NETWORK: Mapping[str, Callable[[Strike], None]] = {
    f"{act}_{backend}": partial(_network, act, backend)
    for act in ("cut", "delay", "swallow", "half_close")
    for backend in ("postgres", "redis")
}
BACKENDS: Mapping[str, Callable[[Strike], None]] = {
    "empty_redis": empty_redis,
    "restart_redis": restart_redis,
    "restart_postgres": restart_postgres,
    "crash_postgres": crash_postgres,
    "fill_disk": fill_disk,
}
OTHERS: Mapping[str, Callable[[Strike], None]] = {
    "flood": flood,
    "step_postgres": step_postgres,
    **{f"forge_{kind}": partial(_forge, kind) for kind in FORGERIES},
}
FAULTS: Mapping[str, Callable[[Strike], None]] = {**PROCESSES, **NETWORK, **BACKENDS, **OTHERS}
