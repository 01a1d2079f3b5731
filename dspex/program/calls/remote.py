"""Remote programs: deployed programs as modules of DSPy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dspex.errors import ConfigurationError

__all__ = ["remote"]

#: Where DSPy is imported, which this package does not do.
_HOME = "workers.adapters.dspy.improvement.remote_programs"


def remote(program: str, client: Any = None, *, version: str | None = None) -> Any:
    """A ``dspy.Module`` whose every call is an execution of a deployed program, on the workers.

    Call it as ``module(ticket=…)`` or ``await module.acall(ticket=…)``; it returns a ``dspy.Prediction``.

    It has the predictors of the program's module. Copies, ``dump_state``, ``load_state``, ``named_predictors`` and
    traces work as in the module itself, so ``dspy.Evaluate``, ``dspy.Parallel`` and DSPy's optimisers take it in place
    of the module: a state that they try is deployed as a version that is not the current one. The module asks no model
    here; predictors' models that are set here are not used, but for the temperature of a rollout.

    In the code of a program that a worker runs, each call is a child execution of the current version: the program is
    left until it is over, and holds no worker meanwhile. Such a module has no predictors.

    ``client``   a :class:`dspex.Client` to submit with; a new one if none is given
    ``version``  a version or an alias, in place of the current version

    DSPy and the program's own package have to be installed here. Raises ConfigurationError, ProgramNotFound, and
    ModuleNotAllowed for a program with a module of a package that DSPEX_PROGRAM_PACKAGES does not list here.
    """
    try:
        home = import_module(_HOME)
    except ImportError as error:
        raise ConfigurationError(f"dspex.remote() needs DSPy, which cannot be imported here: {error}") from error
    return home.remote_program(program, client, version)
