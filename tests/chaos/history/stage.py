"""The processes of a history: servers, workers and clients, with proxies between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.settings import Backends
from dspex.store import migrate
from dspex.store.database import Database
from tests.chaos.history.clients import DELAYS_MS
from tests.chaos.history.fleet import Fleet
from tests.chaos.history.forgeries import Forger
from tests.chaos.history.host import FakeClock, stepped_postgres
from tests.chaos.history.nemesis import Scene
from tests.chaos.history.processes import Clients
from tests.chaos.history.programs import programs
from tests.chaos.history.record import Recorder
from tests.chaos.proxy import Proxy
from tests.model_server import ModelServer, Step
from tests.waiting import wait_for

__all__ = ["scene"]

LEASE_SECONDS = 5


@contextmanager
def scene(
    directory: Path, recorder: Recorder, *, home: Path, disk: Path | None, clock: FakeClock | None, workers: int,
    seed: int, durable: bool,
) -> Iterator[Scene]:  # fmt: skip
    """Everything at work: the servers in ``home``, workers that are ready, clients that have begun."""
    with ExitStack() as stack:
        servers = stack.enter_context(_servers(home, directory, clock, durable=durable))
        models = stack.enter_context(_models())
        direct = stack.enter_context(_deployed(servers, models))
        links = {
            (party, name): stack.enter_context(Proxy(url))
            for party in ("clients", "workers")
            for name, url in (("postgres", servers.database_url), ("redis", servers.broker_url))
        }
        environment = {"DSPEX_LEASE_SECONDS": LEASE_SECONDS}
        fleet = Fleet(_through(links, "workers"), directory, recorder, environment, workers)
        stack.callback(fleet.stop)
        wait_for(lambda: len(direct.workers()) == workers, "the fleet")
        clients = Clients(_through(links, "clients"), recorder.directory, directory, seed, models.url)
        stack.callback(clients.stop)
        clients.wait_until_begun()
        forger = Forger(servers.broker_url)
        stack.callback(forger.close)
        yield Scene(servers, models, fleet, clients, links, direct, forger, disk, clock)


@contextmanager
def _servers(home: Path, directory: Path, clock: FakeClock | None, *, durable: bool) -> Iterator[EmbeddedServers]:
    """Postgres and Redis, migrated; Postgres with a clock of its own if there is one."""
    with pytest.MonkeyPatch.context() as patch:
        if clock is not None:
            patch.setenv("DSPEX_EMBEDDED_POSTGRES_BIN", str(stepped_postgres(directory / "bin", clock)))
        with EmbeddedServers(home, durable=durable) as servers:
            database = Database(servers.database_url)
            migrate.upgrade(database.engine)
            database.close()
            yield servers


@contextmanager
def _models() -> Iterator[ModelServer]:
    """A model that takes as long as the question says."""
    with ModelServer() as server:
        server.script(*(Step(delay_ms=ms, match=f"takes {ms} ms", times=10**9) for ms in DELAYS_MS))
        yield server


@contextmanager
def _deployed(servers: EmbeddedServers, models: ModelServer) -> Iterator[dspex.Client]:
    """A client with the servers themselves, which has deployed every program."""
    with dspex.Client(database_url=servers.database_url, broker_url=servers.broker_url) as client:
        for program in programs(models.url):
            client.deploy(program)
        yield client


def _through(links: Mapping[tuple[str, str], Proxy], party: str) -> Backends:
    return Backends((links[party, "postgres"].url, links[party, "redis"].url))
