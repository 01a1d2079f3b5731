"""The connections of a client: what owns sockets, threads or locks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from dspex.client.deployed_programs import Catalogue
from dspex.client.operator import Control
from dspex.client.shared.shared_submits import SharedSubmits, Stored, Submits
from dspex.publish.broker import Broker
from dspex.settings import Backends, Settings
from dspex.store.batching.gathering import Hold
from dspex.store.batching.thread_batcher import ThreadBatcher
from dspex.store.database import Database
from dspex.store.lifecycle.executions import Submission
from dspex.submit.rate_limit import SubmitRate
from dspex.wait.blocking_driver import BlockingDriver
from dspex.wait.driver import Driver, Row
from dspex.wait.finals import Questions, final_rows
from dspex.wait.hints import Waiter, Watches

__all__ = ["APPLICATION", "ClientConnections", "connect"]

#: The name of a client's connections in Postgres.
APPLICATION = "dspex client"


@dataclass(frozen=True, slots=True)
class ClientConnections:
    """The connections of a client, open from their first use. ``submit`` stores an execution and publishes it,
    together with those that are submitted at the same time; ``submit_held`` keeps what that comes to back."""

    database: Database
    broker: Broker
    waiter: Watches
    driver: Driver
    rate: SubmitRate
    control: Control
    catalogue: Catalogue
    submit: Callable[[Submission], Stored]
    submit_held: Callable[[Submission, Hold], Awaitable[Stored]]
    close: Callable[[], None]


def connect(settings: Settings, backends: Backends) -> ClientConnections:
    """The connections that the threads of a process share."""
    database = Database(
        backends.database_url, pool_size=settings.client_connections, overflow=0, application_name=APPLICATION
    )
    broker = Broker(backends.broker_url, pool_size=settings.client_connections)
    finals: ThreadBatcher[Sequence[UUID], Sequence[Row]] = ThreadBatcher(
        lambda questions, _aside: final_rows(database, questions), Questions()
    )
    waiter = Waiter(broker, finals.ask)
    shared = SharedSubmits(database, broker)
    submits: ThreadBatcher[Submission, Stored] = ThreadBatcher(shared.store, Submits(), then=shared.publish)

    async def submit_held(submission: Submission, hold: Hold) -> Stored:
        return submits.ask(submission, hold)

    def close() -> None:
        waiter.close()
        broker.close()
        database.close()

    return ClientConnections(
        database=database,
        broker=broker,
        waiter=waiter,
        driver=BlockingDriver(waiter, finals, broker.url),
        rate=SubmitRate(settings, broker),
        control=Control(database, broker),
        catalogue=Catalogue(database),
        submit=submits.ask,
        submit_held=submit_held,
        close=close,
    )
