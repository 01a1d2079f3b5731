"""What the error says when Redis cannot be reached."""

from __future__ import annotations

import ssl

import pytest
import redis

from dspex.publish.broker import Broker

CLOSED = redis.ConnectionError("Connection closed by server.")
BROKEN = redis.ConnectionError("Error while reading from h:6379 : (32, 'Broken pipe')")


@pytest.mark.parametrize(
    ("url", "error", "context", "hinted"),
    [
        pytest.param("rediss://h/0", CLOSED, None, True, id="closed"),
        pytest.param("rediss://h/0", BROKEN, BrokenPipeError(), True, id="broken"),
        pytest.param("rediss://h/0", BROKEN, ssl.SSLError(), True, id="an alert of TLS"),
        pytest.param("rediss://h/0", BROKEN, ssl.SSLCertVerificationError(), False, id="the server's certificate"),
        pytest.param("rediss://h/0", BROKEN, ConnectionRefusedError(), False, id="refused"),
        pytest.param("rediss://h/0", redis.AuthenticationError("invalid password"), None, False, id="the password"),
        pytest.param("rediss://h/0?ssl_certfile=/dev/null", CLOSED, None, False, id="with a certificate"),
        pytest.param("redis://h/0", CLOSED, None, False, id="without TLS"),
    ],
)
def test_a_connection_that_is_closed_may_lack_a_certificate(
    url: str, error: redis.RedisError, context: Exception | None, hinted: bool
) -> None:
    error.__context__ = context
    broker = Broker(url)
    text = str(broker._unavailable(error))
    broker.close()
    assert str(error).rstrip(".") in text
    assert ("ssl_certfile and ssl_keyfile in the URL" in text) is hinted
