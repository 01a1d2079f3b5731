"""The server of probes answers its routes, and limits what a client can take of it."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.waiting import wait_for
from workers.observe import probe_server
from workers.observe.probe_server import RouteServer


@pytest.fixture
def port() -> Iterator[int]:
    with RouteServer(("127.0.0.1", 0), {"/ok": lambda: (200, "text/plain", b"ok\n")}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def request(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def reply(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    connection.settimeout(30)
    parts = []
    try:
        while part := connection.recv(4096):
            parts.append(part)
    except ConnectionResetError:  # it closed the connection before it had read everything
        pass
    return b"".join(parts)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/ok", (200, b"ok\n")),
        ("GET", "/ok?probe=1", (200, b"ok\n")),
        ("HEAD", "/ok", (200, b"")),
        ("GET", "/other", (404, b"there are: /ok\n")),
    ],
)
def test_its_routes_are_answered(port: int, method: str, path: str, expected: tuple[int, bytes]) -> None:
    assert request(port, method, path) == expected


def test_another_method_is_refused(port: int) -> None:
    assert request(port, "POST", "/ok")[0] == 501


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01 \x00 \xff\r\n\r\n", b"400"),
        (b"GET /ok HTTP/1.1\r\n" + b"x: 1\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /ok HTTP/1.1\r\nx: " + b"1" * probe_server.REQUEST_BYTES + b"\r\n\r\n", b"431"),
    ],
    ids=["not HTTP", "TLS", "too many headers", "too many bytes"],
)
def test_nonsense_is_refused(port: int, sent: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        assert status in reply(connection)
    assert request(port, "GET", "/ok") == (200, b"ok\n")


def test_a_request_that_arrives_slowly_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server, "REQUEST_SECONDS", 0.3)
    cut_off = pytest.raises((BrokenPipeError, ConnectionResetError))
    with socket.create_connection(("127.0.0.1", port)) as connection, cut_off:
        send_slowly(connection, seconds=30)


def send_slowly(connection: socket.socket, *, seconds: float) -> None:
    """Each byte is in time for a limit on single reads."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        connection.sendall(b"G")
        time.sleep(0.05)


def test_clients_beyond_the_limit_are_dropped_until_others_leave(port: int) -> None:
    with ExitStack() as opened:
        clients = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(probe_server.MOST_CLIENTS)
        ]
        for client in clients:
            client.sendall(b"GET /ok HTTP/1.0\r\n")  # it has not ended
        with pytest.raises((http.client.HTTPException, OSError)):
            request(port, "GET", "/ok")
        for client in clients:
            client.sendall(b"\r\n")
            assert b"200" in reply(client)
    wait_for(lambda: answers(port), "a place to be free")


def answers(port: int) -> bool:
    try:
        return request(port, "GET", "/ok") == (200, b"ok\n")
    except (http.client.HTTPException, OSError):
        return False
