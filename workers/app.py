"""The Celery app, of ``dspex worker`` and of ``celery -A workers.app``."""

from __future__ import annotations

import logging
import logging.config
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from celery import Celery, bootsteps
from celery.backends.base import DisabledBackend
from celery.signals import setup_logging

from dspex.publish.broker import tls_options
from dspex.publish.redis_clients import kombu_options, kombu_url
from dspex.settings import Settings
from workers.consume import redis_transport, sentinel_transport

__all__ = ["app", "settings"]

#: Upkeep with nothing to do takes some milliseconds. A restarted beat does not know when it last ran.
UPKEEP_SECONDS = 600.0


def _celeryconfig() -> ModuleType:
    """The celeryconfig.py beside this package, never one in the working directory."""
    path = Path(__file__).resolve().parent.parent / "celeryconfig.py"
    spec = spec_from_file_location("dspex_celeryconfig", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _App(Celery):  # type: ignore[misc]
    """Without results, which are in Postgres."""

    def _get_backend(self) -> DisabledBackend:
        """To find that there is none, Celery reads the entry points of all packages: 40 ms of each start."""
        return DisabledBackend(app=self, url=None)


class _EventsForThePool(bootsteps.StartStopStep):  # type: ignore[misc]
    """Hands the pool Celery's event dispatcher: a message of several executions is several tasks in Flower."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        consumer.pool.events = consumer.event_dispatcher


class _ConsumerForThePool(bootsteps.StartStopStep):  # type: ignore[misc]
    """Hands the pool kombu's consumer while Celery is connected, so that it knows whether Celery consumes."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        consumer.pool.consumer = consumer.task_consumer

    def stop(self, consumer: Any) -> None:
        consumer.pool.consumer = None


@setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logging(loglevel: int | str | None = None, **_: object) -> None:
    logging.basicConfig(level=loglevel or logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # A line for each message received is the largest single cost of a no-op task.
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    for line in settings.warnings():
        logging.getLogger("dspex").warning(line)


def _make_app(settings: Settings) -> Celery:
    redis_transport.register()
    sentinel_transport.register()
    broker_url = settings.backends().broker_url
    made = _App("dspex", broker=kombu_url(broker_url), include=["workers.tasks"])
    made.config_from_object(_celeryconfig())
    made.conf.broker_transport_options = {**made.conf.broker_transport_options, **kombu_options(broker_url)}
    made.conf.broker_use_ssl = tls_options(broker_url) or False
    made.steps["consumer"].update((_EventsForThePool, _ConsumerForThePool))
    made.conf.worker_concurrency = settings.worker_concurrency
    made.conf.beat_schedule = {
        "health": {
            "task": "dspex.health",
            "schedule": settings.health_interval_seconds,
            "kwargs": {"interval_seconds": settings.health_interval_seconds},
            # A check that could not run in time is useless later.
            "options": {"expires": settings.health_interval_seconds * 2},
        },
        "alerts": {
            "task": "dspex.alerts",
            "schedule": settings.alert_interval_seconds,
            "options": {"expires": settings.alert_interval_seconds * 2},
        },
        "upkeep": {"task": "dspex.upkeep", "schedule": UPKEEP_SECONDS, "options": {"expires": UPKEEP_SECONDS}},
    }
    return made


settings = Settings.load()
app = _make_app(settings)
