"""The service that takes bundles through batch APIs: in a thread with a loop of its own, in the worker that leads.

Results of a bundle are megabytes to read: on the worker's loop they would delay the executions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from dspex.sealing.values import Sealing
from dspex.settings import Settings
from dspex.store.database import Database
from dspex.store.lifecycle import bundles
from workers.process.periodic import Periodic

if TYPE_CHECKING:
    from workers.lm.bundles.bundler import Bundler

__all__ = ["BundleService"]

INTERVAL_SECONDS = 1.0


class BundleService(Periodic):
    """``leads`` says whether this worker leads the pump, and so looks after bundles."""

    name = "bundles"

    def __init__(self, database: Database, settings: Settings, leads: Callable[[], bool]) -> None:
        super().__init__(min(INTERVAL_SECONDS, settings.batch_poll_seconds))
        self._database = database
        self._settings = settings
        self._leads = leads
        # Made in the service's own thread, once there is something to do, and closed there.
        self._runner: asyncio.Runner | None = None
        self._bundler: Bundler | None = None
        self._opened = AsyncExitStack()

    def run_once(self) -> float | None:
        """Do what is due."""
        if not self._leads():
            self._close()
        elif self._database.run(bundles.has_work):
            if self._runner is None:
                self._runner = asyncio.Runner()
            self._runner.run(self._work())
        return None

    def _run(self) -> None:
        try:
            super()._run()
        finally:
            self._close()

    async def _work(self) -> None:
        if self._bundler is None:
            self._bundler = await self._open()
        await self._bundler.run_once(self._leads)

    async def _open(self) -> Bundler:
        """It loads lm15, which a worker without model calls does without."""
        from workers.lm.bundles.bundler import Bundler
        from workers.lm.connect.endpoint import Endpoints
        from workers.lm.connect.local_model import LocalModelAddress

        local_model = LocalModelAddress()
        self._opened.callback(local_model.close)
        bundler = Bundler(self._database, Endpoints(local_model), Sealing.of(self._settings), self._settings)
        self._opened.push_async_callback(bundler.aclose)
        return bundler

    def _close(self) -> None:
        if self._runner is not None:
            self._runner.run(self._opened.aclose())
            self._runner.close()
            self._runner = self._bundler = None
