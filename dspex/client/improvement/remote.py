"""A deployed program as a module for code that uses DSPy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dspex.client.client import Client
from dspex.errors import ConfigurationError

__all__ = ["remote"]

#: It imports DSPy, which a producer does not need otherwise.
_IMPLEMENTATION = "workers.adapters.dspy.improvement.remote_module"


def remote(name: str, client: Client | None = None, *, version: str | None = None) -> Any:
    """A deployed program as a ``dspy.Module``: each call runs as an execution on the workers.

    It has the predictors of the program's module. Copies, ``dump_state``, ``load_state``, ``named_predictors`` and
    traces work as in the module itself, so ``dspy.Evaluate``, ``dspy.Parallel`` and DSPy's optimisers take it in place
    of the module: a state that they try is deployed as a version that is not the current one. The module asks no model
    here; predictors' models that are set here are not used, but for the temperature of a rollout.

    ``client``   the client to submit with; a new one if none is given
    ``version``  a version or an alias, in place of the current version

    DSPy and the program's own package have to be installed here. Raises ConfigurationError, ProgramNotFound, and
    ModuleNotAllowed for a program with a module of a package that DSPEX_PROGRAM_PACKAGES does not list here.
    """
    try:
        implementation = import_module(_IMPLEMENTATION)
    except ImportError as error:
        raise ConfigurationError(f"dspex.remote needs DSPy: pip install dspy ({error})") from error
    return implementation.remote_module(client or Client(), name, version)
