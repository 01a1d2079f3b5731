"""A test kit for programs that run on DSPex: real servers, a real worker, and a model that costs nothing.

pytest loads its fixtures by itself (the entry point ``dspex``; ``pip install "dspex[testing]"``)::

    def test_triage(dspex_client, dspex_worker, dspex_model):
        dspex_model.script(answers=[{"queue": "billing"}])
        dspex_client.deploy(dspex_model.serve(triage))
        assert dspex_client.execute("triage", {"ticket": "I paid twice"}, timeout=30).queue == "billing"

``dspex_stack``           Postgres and Redis, one for each session and process of pytest-xdist
``dspex_client``          a client of it; what a test leaves unfinished is cancelled
``dspex_worker``          a worker process: ``kill()``, ``pause()``, ``resume()``, ``restart()``
``dspex_model``           a model server whose answers come from the signature, a script or a recorded execution
``dspex_no_paid_calls``   a connection to another host fails the test
``dspex_environment``     override it in conftest.py: DSPEX_* settings of the stack's worker
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.testing.kill_points import kill_during
    from dspex.testing.model_double import ModelDouble
    from dspex.testing.recorded import recorded_execution, replayed
    from dspex.testing.session_stack import SessionStack
    from dspex.testing.worker_handle import WorkerHandle

_MODULES = {
    "ModelDouble": "model_double",
    "SessionStack": "session_stack",
    "WorkerHandle": "worker_handle",
    "kill_during": "kill_points",
    "recorded_execution": "recorded",
    "replayed": "recorded",
}

__all__ = ["ModelDouble", "SessionStack", "WorkerHandle", "kill_during", "recorded_execution", "replayed"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dspex.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"dspex.testing.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
