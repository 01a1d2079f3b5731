"""The deployment that is examined: its settings, its backends, and facts that several checks need."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, TypeVar

import redis
from sqlalchemy import Connection

from dspex.client.client import Client
from dspex.errors import BackendUnavailable, ConfigurationError, DspexError
from dspex.operations.doctor.check import Finding, Need, unknown
from dspex.program.internal_programs import is_internal
from dspex.program.program import Program
from dspex.publish.broker import Broker
from dspex.settings import Settings, without_password
from dspex.settings.urls import split_url
from dspex.store import migrate, programs, workers
from dspex.store.database import Database
from dspex.store.facts import server_facts
from dspex.store.programs import Deployed

__all__ = ["Deployment", "is_local"]

P = ParamSpec("P")
T = TypeVar("T")

#: How long a command of Redis, and a statement of Postgres, may take, in seconds.
REDIS_SECONDS, STATEMENT_SECONDS = 3.0, 8.0
#: Connections to Postgres that the doctor opens at most.
POOL_SIZE = 4

#: The finding of a check whose need is missing, with the fix that makes the check possible.
_LACKING = {
    Need.SETTINGS: unknown("the settings are invalid", fix="correct the settings first: `dspex config`"),
    Need.REDIS: unknown("Redis cannot be reached", fix="start Redis, or correct DSPEX_BROKER_URL; see its log"),
    Need.POSTGRES: unknown(
        "Postgres cannot be reached", fix="start Postgres, or correct DSPEX_DATABASE_URL; see its log"
    ),
    Need.SCHEMA: unknown("the schema is of another version", fix="run `dspex migrate`"),
    Need.WORKER: unknown("no worker is alive", fix="start a worker: `dspex worker`"),
}


class Deployment:
    """The deployment that the settings lead to. Nothing is contacted before :meth:`look`.

    ``clock`` is this machine's. ``missing`` maps each need that is missing to the finding of the checks that have it,
    and ``reasons`` maps it to the cause.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.missing: dict[Need, Finding] = {}
        self.reasons: dict[Need, str] = {}
        self.faults: Sequence[str] = ()
        self._there: set[Need] = set()
        self._settings: Settings | None = None
        self._database: Database | None = None
        self._broker: Broker | None = None
        self._client: Client | None = None
        self._making_client = threading.Lock()
        self._read_settings()

    def _read_settings(self) -> None:
        try:
            self._settings = Settings.load()
        except ConfigurationError as error:
            self.faults = error.errors or (str(error),)
            self._lack("the settings are invalid", *Need)
            return
        try:
            backends = self._settings.backends()
        except BackendUnavailable as error:
            self._lack(str(error), Need.POSTGRES, Need.REDIS)
            return
        self._database = Database(backends.database_url, pool_size=POOL_SIZE, application_name="dspex doctor")
        self._broker = Broker(backends.broker_url, pool_size=1)

    @property
    def unreachable(self) -> bool:
        """Whether Postgres or Redis cannot be reached although the settings are valid."""
        return not self.faults and bool({Need.POSTGRES, Need.REDIS} & set(self.missing))

    def look(self) -> None:
        """Find out which needs are met."""
        if self._database is None:
            return
        for need, question in (
            (Need.REDIS, self._ping),
            (Need.POSTGRES, lambda: self.ask(server_facts.ping)),
            (Need.SCHEMA, lambda: self.database.run(migrate.check)),
            (Need.WORKER, self._find_worker),
        ):
            if need not in self.missing:
                try:
                    question()
                    self._there.add(need)
                except (DspexError, redis.RedisError, OSError) as error:
                    self._lack(str(error).strip(), need)

    def give_up(self) -> None:
        """Treat backends that did not answer in time as missing."""
        for need in (Need.POSTGRES, Need.REDIS):
            if need not in self._there:
                self._lack("no answer", need)

    def _lack(self, why: str, *needs: Need) -> None:
        depend = {Need.POSTGRES: (Need.SCHEMA, Need.WORKER), Need.SCHEMA: (Need.WORKER,), Need.REDIS: (Need.WORKER,)}
        for need in needs:
            for each in (need, *depend.get(need, ())):
                self.missing.setdefault(each, _LACKING[need])
                self.reasons.setdefault(each, why)

    def _ping(self) -> None:
        try:
            with self.redis() as client:
                client.ping()
        except redis.RedisError as error:
            raise BackendUnavailable(f"Redis at {self.redis_where} cannot be reached: {error}") from error

    def _find_worker(self) -> None:
        if not self.live_workers:
            raise BackendUnavailable("no worker is alive: start one with `dspex worker`")

    # --------------------------------------------------------------------------------------------------- settings

    @property
    def settings(self) -> Settings:
        assert self._settings is not None, "a check of settings needs them"
        return self._settings

    @property
    def production(self) -> bool:
        return self._settings is not None and self._settings.env == "production"

    # --------------------------------------------------------------------------------------------------- Postgres

    @property
    def database(self) -> Database:
        assert self._database is not None, "a check of Postgres needs it"
        return self._database

    @property
    def database_where(self) -> str:
        return without_password(self.database.url)

    def ask(self, question: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the store in a read-only transaction whose statements have a time limit."""
        with self.database.transaction(read_only=True, statement_seconds=STATEMENT_SECONDS) as connection:
            return question(connection, *args, **kwargs)

    # ------------------------------------------------------------------------------------------------------ Redis

    @property
    def broker(self) -> Broker:
        assert self._broker is not None, "a check of Redis needs it"
        return self._broker

    @property
    def redis_where(self) -> str:
        return without_password(self.broker.url)

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        with self.broker.client(socket_timeout=REDIS_SECONDS) as client:
            yield client

    @cached_property
    def redis_info(self) -> Mapping[str, Any]:
        """The output of INFO."""
        with self.redis() as client:
            info: Any = client.info()
            return dict(info)

    # -------------------------------------------------------------------------------------- programs and workers

    @property
    def client(self) -> Client:
        """One client for all checks, whose threads may ask for it at the same time."""
        with self._making_client:
            if self._client is None:
                self._client = Client(self.own_settings)
            return self._client

    def deploy(self, program: Program) -> Deployed:
        """Deploy one of the doctor's own programs."""
        return self.client._session.deploy(program)

    @property
    def own_settings(self) -> Settings:
        """The settings of the doctor's own submits: they are not rate-limited."""
        return self.settings.model_copy(update={"rate_limit_per_minute": None, "client": "dspex-doctor"})

    @cached_property
    def workers(self) -> Sequence[Mapping[str, Any]]:
        """The workers that have not stopped, including dead ones that have not been noticed yet."""
        return self.database.run(workers.listing)

    @property
    def live_workers(self) -> Sequence[Mapping[str, Any]]:
        """The workers whose lease is valid and that take work."""
        return [w for w in self.workers if w["live"] and w["state"] == "running"]

    @cached_property
    def programs(self) -> Sequence[Program]:
        """The deployed programs, except the programs of the doctor and of `dspex bench`."""
        deployed = programs.readable(self.database.run(programs.deployed))
        return [program for program in deployed if not is_internal(program.name)]

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._broker is not None:
            self._broker.close()
        if self._database is not None:
            self._database.close()


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine, over the loopback or a socket."""
    host = split_url(url).hostname
    return host in (None, "", "localhost", "::1") or str(host).startswith("127.")
