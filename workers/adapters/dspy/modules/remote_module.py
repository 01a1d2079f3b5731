"""A deployed program as a module: each call is an execution of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import dspy

from dspex.client.client import Client
from workers.adapters.dspy.engine_bridge import HostedRun, current_run, give_way
from workers.adapters.dspy.values.stored_values import stored

__all__ = ["RemoteProgram"]


class RemoteProgram(dspy.Module):  # type: ignore[misc]
    """See :func:`dspex.remote`."""

    def __init__(self, program: str, client: Client | None = None) -> None:
        super().__init__()
        self.program = program
        self._client = client

    def __deepcopy__(self, _memo: Any) -> RemoteProgram:
        """A copy with the same client, which is safe to share."""
        return RemoteProgram(self.program, self._client)

    async def acall(self, *args: Any, **inputs: Any) -> dspy.Prediction:
        """As DSPy's. What DSPy does around a call is for the models that a module asks itself: a child in a worker is
        made without it, unless callbacks want to know."""
        if args or current_run.get() is None or self.callbacks or dspy.settings.callbacks:
            return await super().acall(*args, **inputs)
        return await self.aforward(**inputs)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run it as a child in a worker, else through the client, in a thread."""
        values = {name: stored(value) for name, value in inputs.items()}
        hosted = current_run.get()
        if hosted is None:
            return _prediction(dict(await asyncio.to_thread(self._executed, values)))
        return _prediction(await hosted.loop.acall(lambda: _child(hosted, self.program, values)))

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """As :meth:`aforward`, for code that is not asynchronous."""
        values = {name: stored(value) for name, value in inputs.items()}
        hosted = current_run.get()
        if hosted is None:
            return _prediction(self._executed(values))
        return _prediction(hosted.loop.call(lambda: _child(hosted, self.program, values)))

    def _executed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._client is None:
            self._client = Client()
        return dict(self._client.execute(self.program, values))


async def _child(hosted: HostedRun, program: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    if hosted.run.waits is None:
        raise RuntimeError("a child execution needs a worker")
    await give_way()
    return await hosted.run.waits.child(program, values)


def _prediction(outputs: Mapping[str, Any]) -> dspy.Prediction:
    return dspy.Prediction(dict(outputs))
