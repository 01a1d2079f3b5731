"""Free TCP ports of the loopback address."""

from __future__ import annotations

import random
import socket

from dspex.errors import ConfigurationError

__all__ = ["free_port", "is_free"]

# Below the range from which the kernel takes the ports of outgoing connections (32768 up on Linux, 49152 on macOS):
# a client that retries a port of that range while its server is down can end up connected to itself, and then the
# server cannot have its port back.
_RANGE = range(15_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that is free now. Another process may take it before it is used; then try again."""
    for port in random.sample(_RANGE, 100):
        if is_free(port):
            return port
    raise ConfigurationError("100 ports of 127.0.0.1 were tried and none is free")
