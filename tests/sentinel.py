"""A Redis with a replica and a sentinel that watches them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from dspex.embedded.child_process import ChildProcess, server_environment
from dspex.embedded.ports import free_port
from dspex.embedded.redis_server import server_binary
from tests.waiting import wait_for

NAME = "primary"
PASSWORD = "p@ss:word"

_SERVER = """\
port {port}
bind 127.0.0.1
requirepass "{password}"
masterauth "{password}"
save ""
appendonly no
repl-diskless-sync-delay 0
"""
_SENTINEL = """\
port {port}
bind 127.0.0.1
sentinel monitor {name} 127.0.0.1 {primary} 1
sentinel auth-pass {name} "{password}"
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 10000
"""


class Sentinel:
    """``url`` leads to whichever of the two servers is the primary."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.first, self._second, self._port = free_port(), free_port(), free_port()
        self._processes: dict[int, ChildProcess] = {}

    @property
    def url(self) -> str:
        return f"redis+sentinel://:p%40ss%3Aword@127.0.0.1:{self._port}/{NAME}/1"

    def start(self) -> None:
        server = {"password": PASSWORD}
        self._start(self.first, _SERVER.format(port=self.first, **server))
        self._start(self._second, _SERVER.format(port=self._second, **server) + f"replicaof 127.0.0.1 {self.first}\n")
        wait_for(lambda: self._info(self._second)["master_link_status"] == "up", "the replica to follow")
        self._start(
            self._port, _SENTINEL.format(port=self._port, name=NAME, primary=self.first, **server), "--sentinel"
        )
        with redis.Redis(port=self._port) as sentinel:
            wait_for(
                lambda: self._ping(sentinel) and sentinel.sentinel_slaves(NAME), "the sentinel to know the replica"
            )

    def kill_the_primary(self) -> None:
        self._processes[self.first].kill()

    def stop(self) -> None:
        for process in self._processes.values():
            process.stop()

    def _start(self, port: int, configuration: str, *options: str) -> None:
        file = self._place / f"redis-{port}.conf"
        file.write_text(configuration)
        argv = [str(server_binary()), file.name, *options]
        process = ChildProcess(f"redis {port}", argv, server_environment(), file.with_suffix(".log"), cwd=self._place)
        process.start()
        self._processes[port] = process
        with redis.Redis(port=port, password=None if options else PASSWORD) as client:
            wait_for(lambda: self._ping(client), f"redis {port} to answer")

    def _info(self, port: int) -> dict[str, str]:
        with redis.Redis(port=port, password=PASSWORD) as client:
            found: dict[str, str] = client.info("replication")
            return found

    @staticmethod
    def _ping(client: redis.Redis) -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def sentinel(place: Path) -> Iterator[Sentinel]:
    """Three processes of one's own."""
    found = Sentinel(place)
    try:
        found.start()
        yield found
    finally:
        found.stop()
