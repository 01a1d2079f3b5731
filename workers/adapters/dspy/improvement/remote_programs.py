"""What ``dspex.remote`` makes: a child of the execution that a worker runs, or the module with its states elsewhere."""

from __future__ import annotations

from typing import Any

from dspex.client.client import Client
from workers.adapters.dspy.improvement.remote_states import remote_module
from workers.adapters.dspy.modules.remote_module import RemoteProgram
from workers.adapters.user_code import is_worker

__all__ = ["remote_program"]


def remote_program(name: str, client: Client | None, version: str | None) -> Any:
    """See :func:`dspex.remote`."""
    if is_worker() and client is None and version is None:
        return RemoteProgram(name)
    return remote_module(client or Client(), name, version)
