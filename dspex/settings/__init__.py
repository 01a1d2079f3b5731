"""Settings: from DSPEX_* environment variables, then files of secrets, then ``dspex.toml``, then defaults.

One file for each section of settings; :class:`Settings` (load.py) is all of them together. To add a setting, add a
field with a description to its section; one that holds a secret is a ``pydantic.SecretStr``.
"""

from dspex.settings.connection_settings import Backends, connection_warnings
from dspex.settings.loading import Settings, unknown_variables
from dspex.settings.model_settings import ModelLimits
from dspex.settings.secrets import Secrets
from dspex.settings.setting_names import PREFIX, variable
from dspex.settings.urls import without_password

__all__ = [
    "PREFIX",
    "Backends",
    "ModelLimits",
    "Secrets",
    "Settings",
    "connection_warnings",
    "unknown_variables",
    "variable",
    "without_password",
]
