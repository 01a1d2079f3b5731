"""Where the bundled local model is served."""

from __future__ import annotations

import asyncio

from dspex.embedded.model import ensure_local_model
from dspex.errors import BackendUnavailable, ConfigurationError, ModelError
from dspex.settings import Settings

__all__ = ["local_model_url"]


async def local_model_url() -> str:
    """The address of the local model's server, which the embedded stack starts when it is asked for.

    Raises ModelError ``provider_unavailable``: to be retried when the server does not answer, not when there is none.
    """
    settings = Settings.load()
    try:
        return await asyncio.to_thread(ensure_local_model, settings.home, url=settings.local_model_url)
    except (BackendUnavailable, ConfigurationError) as error:
        raise ModelError(str(error), code="provider_unavailable", retryable=error.retryable) from error
