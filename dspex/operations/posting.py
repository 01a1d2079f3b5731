"""HTTP POST to other services: certificates are checked, and redirects are refused."""

from __future__ import annotations

import ssl
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["TIMEOUT_SECONDS", "opener"]

TIMEOUT_SECONDS = 10.0


def opener(ca_file: Path | None) -> urllib.request.OpenerDirector:
    """Opens requests; ``ca_file`` has certificates to trust beside the system's."""
    trust = ssl.create_default_context()
    if ca_file is not None:
        trust.load_verify_locations(ca_file)
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=trust), _NoRedirects)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Rejects redirects: urllib would turn the POST into a GET and report success."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
