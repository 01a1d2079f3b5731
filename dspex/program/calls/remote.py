"""Remote programs: deployed programs as modules of DSPy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dspex.errors import ConfigurationError

__all__ = ["remote"]

#: Where DSPy is imported, which this package does not do.
_HOME = "workers.adapters.dspy.modules.remote_module"


def remote(program: str, client: Any = None) -> Any:
    """A ``dspy.Module`` whose every call is an execution of a deployed program, on the workers.

    Call it as ``module(ticket=…)`` or ``await module.acall(ticket=…)``; it returns a ``dspy.Prediction``. In the code
    of a program that a worker runs, each call is a child execution: the program is left until it is over, and holds no
    worker meanwhile. Elsewhere the call waits for the result through ``client``, by default a :class:`dspex.Client`.

    Raises ConfigurationError where DSPy is not installed.
    """
    try:
        home = import_module(_HOME)
    except ImportError as error:
        raise ConfigurationError(f"dspex.remote() needs DSPy, which cannot be imported here: {error}") from error
    return home.RemoteProgram(program, client)
