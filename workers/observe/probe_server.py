"""A worker's HTTP endpoints, served by a thread of their own: they answer while the loop is blocked.

``/health/live``   200, or 503 and why this process should be replaced
``/health/ready``  200, or 503 and why no execution begins here just now
``/health``        the report of everything that can be seen from here, as JSON; 503 while it is unhealthy
``/metrics``       for Prometheus
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dspex.operations.health.check_groups import HealthCheck
from dspex.operations.health.conditions import Condition
from dspex.settings import Settings
from workers.observe.health_check import health_check
from workers.observe.metrics import QUEUE, REGISTRY
from workers.observe.probes import Probes
from workers.process.fleet_pipe import place

__all__ = ["ProbeServer"]

#: A client that says nothing for so long is let go.
CLIENT_SECONDS = 5.0
#: While another process has the port: the one that this one replaces, most likely.
RETRY_SECONDS = 0.5

#: How soon the port is left.
STOP_SECONDS = 0.2

log = logging.getLogger("dspex.workers")

#: Status, content type, body.
Answer = tuple[int, str, bytes]


class ProbeServer:
    """Serves them at the port of the settings, from :meth:`start` to :meth:`stop`; without a port, nothing.

    In a fleet each process has the port after that of the place before it. A port that is taken is waited for.
    """

    def __init__(self, settings: Settings, probes: Probes) -> None:
        self._at = None if settings.http_port is None else (settings.http_address, settings.http_port + place())
        check = health_check(settings)
        self._routes: Mapping[str, Callable[[], Answer]] = {
            "/health/live": lambda: _verdict(probes.why_not_live()),
            "/health/ready": lambda: _verdict(probes.why_not_ready()),
            "/health": lambda: _report(check),
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(REGISTRY)),
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="dspex-http", daemon=True)

    def start(self) -> None:
        if self._at is None:
            return
        QUEUE.wanted = True
        self._thread.start()

    def stop(self) -> None:
        """Leave the port."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=CLIENT_SECONDS)

    def _serve(self) -> None:
        assert self._at is not None
        server = self._bind(self._at)
        if server is None:
            return
        log.info("health and metrics at http://%s:%s", *self._at)
        with server:
            while not self._stop.is_set():
                server.handle_request()

    def _bind(self, at: tuple[str, int]) -> _Server | None:
        """The server on its port; None when this is to stop before the port was free."""
        told = False
        while not self._stop.is_set():
            try:
                return _Server(at, partial(_Handler, self._routes))
            except OSError as error:
                if not told:
                    log.warning("cannot listen at %s:%s, trying on: %s", *at, error.strerror or error)
                told = True
                self._stop.wait(RETRY_SECONDS)
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    timeout = STOP_SECONDS
    # Nobody else's port is taken over, and one's own, just left, is to be had at once.
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news; anything else is a bug."""
        log.debug("answering %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_SECONDS
    server_version = "dspex"
    sys_version = ""

    def __init__(self, routes: Mapping[str, Callable[[], Answer]], *args: Any) -> None:
        self._routes = routes
        super().__init__(*args)

    def do_GET(self) -> None:
        route = self._routes.get(self.path.partition("?")[0])
        status, kind, body = route() if route else _text(404, "there are: " + " ".join(self._routes))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: probes come every few seconds."""


def _verdict(why_not: str | None) -> Answer:
    return _text(200, "ok") if why_not is None else _text(503, why_not)


def _report(check: HealthCheck) -> Answer:
    report = check.report()
    status = 503 if report.overall is Condition.UNHEALTHY else 200
    return status, "application/json", json.dumps(report.as_dict(), indent=1).encode()


def _text(status: int, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()
