"""Where the bundled local model is served."""

from __future__ import annotations

import asyncio

from dspex.embedded.model import ensure_local_model
from dspex.settings import Settings

__all__ = ["local_model_url"]


async def local_model_url() -> str:
    """The address of the local model's server, which the embedded stack starts when it is asked for.

    Raises ConfigurationError when nothing serves it, BackendUnavailable when it does not answer.
    """
    settings = Settings.load()
    return await asyncio.to_thread(ensure_local_model, settings.home, url=settings.local_model_url)
