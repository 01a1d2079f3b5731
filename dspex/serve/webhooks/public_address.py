"""Connections to the internet only: a webhook's address may name any host, also one of the network behind the gateway.

A name is resolved once, and the connection goes to the address that was examined: a name that resolves to another
address a moment later changes nothing.
"""

from __future__ import annotations

import http.client
import socket
import ssl

from dspex.program.calls.webhook_address import is_public

__all__ = ["NotPublic", "connection_to", "public_addresses"]


class NotPublic(Exception):
    """The host is not one of the internet."""


def public_addresses(host: str, port: int, *, private: bool) -> list[str]:
    """The addresses of a host. Raises NotPublic if any is not one of the internet, unless ``private`` ones are allowed.

    Raises OSError for a name that cannot be resolved.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not private and not is_public(address):
            raise NotPublic(f"{host} is an address of a private network")
    return found


def connection_to(
    scheme: str, host: str, port: int, *, private: bool, trust: ssl.SSLContext, seconds: float
) -> http.client.HTTPConnection:
    """An open connection to a host. Raises NotPublic, OSError."""
    last: OSError = OSError(f"{host} has no address")
    for address in public_addresses(host, port, private=private):
        try:
            opened = socket.create_connection((address, port), timeout=seconds)
        except OSError as error:
            last = error
            continue
        return _over(scheme, host, port, opened, trust)
    raise last


def _over(
    scheme: str, host: str, port: int, opened: socket.socket, trust: ssl.SSLContext
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(host, port)
    try:
        connection.sock = trust.wrap_socket(opened, server_hostname=host) if scheme == "https" else opened
    except BaseException:
        opened.close()
        raise
    return connection
