"""The adapters of a worker process, loaded by the registry of :mod:`dspex.program.adapters`."""

from __future__ import annotations

import asyncio
import logging
from importlib import import_module

from dspex.errors import DspexError
from dspex.program.adapters import adapters, unloadable
from workers.adapters.contract import Adapter

__all__ = ["AdapterUnavailable", "Adapters"]

log = logging.getLogger("dspex.workers")


class AdapterUnavailable(DspexError):
    """This worker does not have the adapter that the program names."""

    code = "adapter_unavailable"
    retryable = True


class Adapters:
    """One instance of each adapter, made when the first program asks for it."""

    def __init__(self) -> None:
        self._made: dict[str, Adapter] = {}
        self._making = asyncio.Lock()

    async def get(self, name: str) -> Adapter:
        """The adapter. Raises AdapterUnavailable; another worker may have it."""
        if name not in self._made:
            async with self._making:
                if name not in self._made:
                    # An import may take seconds: the loop goes on meanwhile.
                    self._made[name] = await asyncio.to_thread(_make, name)
        return self._made[name]

    async def close(self) -> None:
        """Close them all, also when one of them fails to."""
        while self._made:
            name, adapter = self._made.popitem()
            try:
                await adapter.close()
            except Exception:  # the boundary to code that may not be ours: the others still have to close
                log.exception("adapter %r failed to close", name)


def _make(name: str) -> Adapter:
    info = adapters().get(name)
    if info is None:
        why = unloadable().get(name)
        raise AdapterUnavailable(
            f"adapter {name!r} cannot be loaded in this worker: {why}"
            if why
            else f"adapter {name!r} is not installed in this worker: install the package that brings it"
        )
    if missing := info.missing:
        fix = f"pip install '{info.install}'" if info.install else "install what brings it"
        raise AdapterUnavailable(f"adapter {name!r} needs {', '.join(missing)}, which this worker lacks: {fix}")
    module, _, attribute = info.implementation.partition(":")
    try:
        adapter: Adapter = getattr(import_module(module), attribute)()
    except BaseException as error:  # the boundary to code that may not be ours: other adapters go on
        raise AdapterUnavailable(
            f"adapter {name!r} cannot be loaded in this worker: {info.implementation}: {type(error).__name__}: {error}"
        ) from error
    return adapter
