"""The shape of everything a worker process starts and stops.

A service has ``start()`` and ``stop()``; a periodic one also has ``run_once()`` (:mod:`workers.process.periodic`).
Services start in the order of their list and stop in the opposite order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dspex.errors import BackendUnavailable

__all__ = ["FunctionService", "Service", "start_all", "stop_all"]

log = logging.getLogger("dspex.workers")


class Service(Protocol):
    """Something that runs while the worker runs."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class FunctionService:
    """A service made of two functions, either of which may be missing."""

    start: Callable[[], None] = _nothing
    stop: Callable[[], None] = _nothing


def start_all(services: Sequence[Service]) -> None:
    """Start each service once the one before it has started."""
    for service in services:
        service.start()


def stop_all(services: Sequence[Service]) -> None:
    """Stop each service, the last one first, also when Postgres or Redis is out of reach of one of them."""
    for service in reversed(services):
        try:
            service.stop()
        except BackendUnavailable as error:
            log.error("%s", error)  # noqa: TRY400 - a lease or a lead that cannot be released expires
