"""Replace the process of a command with a long-running one, so that signals and exit codes are its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from dspex.errors import ConfigurationError
from dspex.settings import Settings

__all__ = ["replace_process"]


def replace_process(arguments: Sequence[str], settings: Settings, *, extra: str) -> NoReturn:
    """Replace this process with ``python`` and these arguments.

    ``extra`` is the extra of the package that installs what the process needs. Raises ConfigurationError if it is not
    installed, and BackendUnavailable if no backends are configured: earlier and clearer than the process would.
    """
    package = "flower" if extra == "flower" else "celery"
    if find_spec(package) is None:
        raise ConfigurationError(f"{package} is not installed: pip install 'dspex[{extra}]'")
    settings.backends()
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
