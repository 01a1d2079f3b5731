"""URLs of Postgres and Redis: validation, display without passwords, and use of TLS."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from dspex.settings.sentinels import SENTINEL, Sentinels

__all__ = ["SecretUrl", "check_broker_url", "check_database_url", "is_plain_text", "is_unverified", "without_password"]

#: Parameters of libpq and redis-py that name files or contain secrets.
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SECRETS = ("password", "sslpassword", "ssl_password")
#: Values of sslrootcert that name no file.
_SYSTEM = ("system",)


class SecretUrl(SecretStr):
    """A URL that is shown without its password."""

    def _display(self) -> str:
        return without_password(self.get_secret_value())


def without_password(url: str) -> str:
    """The URL with every password replaced by ``***``."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    netloc, query = parts.netloc, parts.query
    if "@" in netloc and ":" in netloc.rsplit("@", 1)[0]:
        credentials, host = netloc.rsplit("@", 1)
        netloc = f"{credentials.split(':', 1)[0]}:***@{host}"
    if any(name in query for name in SECRETS):
        query = urlencode(
            [(name, "***" if name in SECRETS else value) for name, value in parse_qsl(query)], safe="/:*,"
        )
    return urlunsplit(parts._replace(netloc=netloc, query=query))


def check_database_url(url: SecretUrl) -> SecretUrl:
    """The URL, beginning with ``postgresql://``. Raises ValueError for an invalid URL."""
    text = url.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        raise ValueError("must begin with postgresql://")
    _check(text)
    return SecretUrl("postgresql://" + text.split("://", 1)[1])


def check_broker_url(url: SecretUrl) -> SecretUrl:
    """The URL. Raises ValueError for an invalid URL."""
    text = url.get_secret_value()
    if not text.startswith(("redis://", "rediss://", f"{SENTINEL}://")):
        raise ValueError(f"must begin with redis://, rediss:// or {SENTINEL}://")
    if not Sentinels.of(text):
        _check(text)
    return url


def is_plain_text(url: str) -> bool:
    """Whether the connection may be unencrypted: another host, and no TLS.

    Postgres' default, ``sslmode=prefer``, accepts an unencrypted connection.
    """
    parts = urlsplit(url)
    if _is_local(parts):
        return False
    if parts.scheme == "postgresql":
        return _parameter(parts, "sslmode", "prefer") in ("disable", "allow", "prefer")
    return parts.scheme != "rediss"


def is_unverified(url: str) -> bool:
    """Whether TLS is used without verifying the identity of the server."""
    parts = urlsplit(url)
    if parts.scheme == "postgresql":
        return _parameter(parts, "sslmode", "prefer") in ("require", "verify-ca")
    without_host = _parameter(parts, "ssl_check_hostname", "true").lower() in ("0", "no", "false", "f", "n")
    return parts.scheme == "rediss" and (
        without_host or _parameter(parts, "ssl_cert_reqs", "required").lower().removeprefix("cert_") != "required"
    )


def _check(url: str) -> None:
    """Raise ValueError for a URL that cannot be parsed, or that names a missing file."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(
            "is not a URL: characters of a password such as / @ : must be written as %2F %40 %3A"
        ) from None
    for name in FILES:
        path = _parameter(parts, name, "")
        if path and path not in _SYSTEM and not Path(path).is_file():
            raise ValueError(f"{name} names {path}, which is not a file")


def _parameter(parts: SplitResult, name: str, default: str) -> str:
    return parse_qs(parts.query).get(name, [default])[-1]


def _is_local(parts: SplitResult) -> bool:
    sentinels = Sentinels.of(urlunsplit(parts))
    if sentinels is not None:
        return all(_is_loopback(host) for host, _ in sentinels.hosts)
    named = [host for given in parse_qs(parts.query).get("host", []) for host in given.split(",")]
    return all(map(_is_loopback, named or [parts.hostname or ""]))


def _is_loopback(host: str) -> bool:
    if not host or host.startswith("/") or host.partition(":")[0] == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
