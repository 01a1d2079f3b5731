"""Settings: from DSPEX_* environment variables, then secret files, then ``dspex.toml``, then defaults.

A module for each section of settings; :class:`Settings` (loading.py) combines them. To add a setting, add a field with
a description to its section. A secret is a ``pydantic.SecretStr``.
"""

from dspex.settings.connection_settings import Backends, connection_warnings
from dspex.settings.loading import Settings, unknown_variables
from dspex.settings.model_settings import McpServer, ModelLimits
from dspex.settings.secrets import Secrets
from dspex.settings.setting_names import PREFIX, variable
from dspex.settings.urls import without_password

__all__ = [
    "PREFIX",
    "Backends",
    "McpServer",
    "ModelLimits",
    "Secrets",
    "Settings",
    "connection_warnings",
    "unknown_variables",
    "variable",
    "without_password",
]
