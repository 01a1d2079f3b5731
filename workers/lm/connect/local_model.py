"""Where the bundled local model is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dspex.embedded.bundled_model import ensure_local_model
from dspex.errors import BackendUnavailable, ConfigurationError, ModelError
from dspex.settings import Settings

__all__ = ["LocalModelAddress"]


class LocalModelAddress:
    """The address of the local model's server, looked up for each call, so that a server that moved is found.

    Callers that come while a look-up is under way share it: it takes a thread and a request to the server, or seconds
    when the server has to start. It has its own thread, so that other look-ups do not wait for it. Belongs to one loop.
    ``look`` finds the address, blocking; by default it asks the embedded stack of the settings.
    """

    def __init__(self, look: Callable[[], str] | None = None) -> None:
        self._look = look or self._ask_stack
        self._settings: Settings | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._looking: asyncio.Future[str] | None = None

    async def __call__(self) -> str:
        """Raises ModelError ``provider_unavailable``: retryable when the server does not answer, not when there is
        no server."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().run_in_executor(self._own_thread(), self._look)
            self._looking.add_done_callback(_retrieve)
        try:
            return await asyncio.shield(self._looking)
        except (BackendUnavailable, ConfigurationError) as error:
            raise ModelError(str(error), code="provider_unavailable", retryable=error.retryable) from error

    def close(self) -> None:
        """Release the thread, without waiting for a look-up under way."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def _ask_stack(self) -> str:
        if self._settings is None:
            self._settings = Settings.load()
        return ensure_local_model(self._settings.home, url=self._settings.local_model_url)

    def _own_thread(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dspex-local-model")
        return self._threads


def _retrieve(looked: asyncio.Future[str]) -> None:
    """So that asyncio does not log an error that was never retrieved, if every caller was cancelled."""
    if not looked.cancelled():
        looked.exception()
