"""The HTTP gateway and the console: ``dspex serve``, or mounted in an application of the user's own.

Every request becomes calls of :class:`dspex.AsyncClient`: nothing here stores, queues or waits by itself.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dspex.errors import ConfigurationError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from dspex.client.async_client import AsyncClient

__all__ = ["require_extra", "router"]

#: The packages of the extra ``serve`` that are imported first.
NEEDED = ("starlette", "uvicorn", "jinja2")


def router(client: AsyncClient, **options: Any) -> Starlette:
    """The gateway and the console as an ASGI application, to mount in your own.

    ::

        app.mount("/dspex", dspex.serve.router(client))

    The client is yours: close it when your application ends. Requests need keys, as with ``dspex serve``. Raises
    ConfigurationError if the extra ``serve`` is not installed.
    """
    require_extra()
    from dspex.serve.application import application

    return application(client, **options)


def require_extra() -> None:
    """Raise ConfigurationError if the extra ``serve`` is not installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigurationError(f"{missing[0]} is not installed: pip install 'dspex[serve]'")
