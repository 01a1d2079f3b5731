"""URLs of Postgres and Redis: validation, display without passwords, and use of TLS."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from dspex.settings.sentinels import SENTINEL, Sentinels

__all__ = [
    "SecretUrl",
    "check_broker_url",
    "check_database_url",
    "credentials",
    "is_plain_text",
    "is_unverified",
    "split_url",
    "without_credentials",
    "without_password",
]

#: Parameters of libpq and redis-py that name files or contain secrets.
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SECRETS = ("password", "sslpassword", "ssl_password")
#: Values of sslrootcert that name no file.
_SYSTEM = ("system",)
#: How Redis' server is verified; also written in capitals, after CERT_.
CERTIFICATES = ("none", "optional", "required")
#: A host, perhaps an IPv6 address in brackets, and a port.
_PLACE = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]*)(:\d*)?")
_ENCODE = "characters of a user or a password such as # ? / @ : % must be written as %23 %3F %2F %40 %3A %25"


def split_url(url: str) -> SplitResult:
    """As ``urlsplit``, which from Python 3.14 on refuses an IPv6 address after another host."""
    scheme, separator, rest = url.partition("://")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    return urlsplit(scheme + separator + rest.removeprefix(netloc))._replace(netloc=netloc)


class SecretUrl(SecretStr):
    """A URL that is shown without its password."""

    def _display(self) -> str:
        return without_password(self.get_secret_value())


def without_password(url: str) -> str:
    """The URL with every password replaced by ``***``; only its scheme if a password may be anywhere in it."""
    try:
        parts = split_url(url)
    except ValueError:
        return "***"
    if _is_ambiguous(url):
        return f"{parts.scheme}://***"
    netloc, query = parts.netloc, parts.query
    if "@" in netloc and ":" in netloc.rsplit("@", 1)[0]:
        credentials, host = netloc.rsplit("@", 1)
        netloc = f"{credentials.split(':', 1)[0]}:***@{host}"
    if any(name in query for name in SECRETS):
        query = urlencode(
            [(name, "***" if name in SECRETS else value) for name, value in parse_qsl(query)], safe="/:*,"
        )
    return urlunsplit(parts._replace(netloc=netloc, query=query))


def credentials(url: str) -> tuple[str, str]:
    """The user and the password of a URL of Redis: before its host, or else among its parameters."""
    parts = split_url(url)
    user, password = (unquote(part) for part in parts.netloc.rpartition("@")[0].partition(":")[::2])
    return user or _parameter(parts, "username", ""), password or _parameter(parts, "password", "")


def without_credentials(url: str) -> str:
    """A URL of Redis without its user and its password."""
    parts = split_url(url)
    kept = [each for each in parts.query.split("&") if each.partition("=")[0] not in ("username", "password")]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(kept)))


def check_database_url(url: SecretUrl) -> SecretUrl:
    """The URL, beginning with ``postgresql://``. Raises ValueError for an invalid URL."""
    text = url.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        raise ValueError("must begin with postgresql://")
    _check(text, hosts=_places(text))
    return SecretUrl("postgresql://" + text.split("://", 1)[1])


def check_broker_url(url: SecretUrl) -> SecretUrl:
    """The URL. Raises ValueError for an invalid URL."""
    text = url.get_secret_value()
    if not text.startswith(("redis://", "rediss://", f"{SENTINEL}://")):
        raise ValueError(f"must begin with redis://, rediss:// or {SENTINEL}://")
    _check_characters(text)
    if Sentinels.of(text):
        return url
    _check(text, hosts=[split_url(text).netloc.rpartition("@")[2]])
    if not re.fullmatch(r"/?|/\d+", split_url(text).path):
        raise ValueError("must end with the number of a database of Redis, such as /0")
    return SecretUrl(_with_certificates(text))


def _with_certificates(url: str) -> str:
    """The URL with ``ssl_cert_reqs`` as redis-py, kombu and Celery all read it. Raises ValueError for another value."""
    base, _, query = url.partition("?")
    return f"{base}?{'&'.join(map(_with_certificate, query.split('&')))}" if query else url


def _with_certificate(parameter: str) -> str:
    name, _, value = parameter.partition("=")
    if name != "ssl_cert_reqs":
        return parameter
    value = value.lower().removeprefix("cert_")
    if value not in CERTIFICATES:
        raise ValueError(f"ssl_cert_reqs must be {', '.join(CERTIFICATES[:-1])} or {CERTIFICATES[-1]}")
    return f"{name}={value}"


def is_plain_text(url: str) -> bool:
    """Whether the connection may be unencrypted: another host, and no TLS.

    Postgres' default, ``sslmode=prefer``, accepts an unencrypted connection.
    """
    parts = split_url(url)
    if _is_local(parts):
        return False
    if parts.scheme == "postgresql":
        return _parameter(parts, "sslmode", "prefer") in ("disable", "allow", "prefer")
    return parts.scheme != "rediss"


def is_unverified(url: str) -> bool:
    """Whether TLS is used without verifying the identity of the server."""
    parts = split_url(url)
    if parts.scheme == "postgresql":
        return _parameter(parts, "sslmode", "prefer") in ("require", "verify-ca")
    without_host = _parameter(parts, "ssl_check_hostname", "true").lower() in ("0", "no", "false", "f", "n")
    return parts.scheme == "rediss" and (
        without_host or _parameter(parts, "ssl_cert_reqs", "required").lower().removeprefix("cert_") != "required"
    )


def _is_ambiguous(url: str) -> bool:
    """Whether a character of a password may have ended the part of the URL that holds it."""
    authority, _, rest = url.partition("://")[2].partition("/")
    return "#" in url or "@" in rest or "?" in authority.partition("@")[0] or authority.count("@") > 1


def _check_characters(url: str) -> None:
    """Raise ValueError for a URL that its readers would take apart in different ways."""
    if _is_ambiguous(url) or re.search("%(?![0-9A-Fa-f]{2})", url):
        raise ValueError(f"is not a URL: {_ENCODE}")


def _check(url: str, *, hosts: list[str]) -> None:
    """Raise ValueError for a URL that cannot be parsed, that names something twice, or that names a missing file."""
    _check_characters(url)
    if not all(map(_PLACE.fullmatch, hosts)):
        raise ValueError(f"is not a URL: {_ENCODE}")
    parts = split_url(url)
    twice = [name for name, count in Counter(name for name, _ in parse_qsl(parts.query)).items() if count > 1]
    if twice:
        raise ValueError(f"has {twice[0]} twice: several hosts and ports are separated by commas")
    for name in FILES:
        path = _parameter(parts, name, "")
        if path and path not in _SYSTEM and not Path(path).is_file():
            raise ValueError(f"{name} names {path}, which is not a file")


def _places(url: str) -> list[str]:
    """The hosts of a URL of Postgres with their ports: one, or several that are tried in this order."""
    return re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2].split(",")


def _parameter(parts: SplitResult, name: str, default: str) -> str:
    return parse_qs(parts.query).get(name, [default])[-1]


def _is_local(parts: SplitResult) -> bool:
    sentinels = Sentinels.of(urlunsplit(parts))
    if sentinels is not None:
        return all(_is_loopback(host) for host, _ in sentinels.hosts)
    named = [host for given in parse_qs(parts.query).get("host", []) for host in given.split(",")]
    found = (_PLACE.fullmatch(place) for place in _places(urlunsplit(parts)))
    hosts = [unquote(place[1]).strip("[]") if place else "?" for place in found]
    return all(map(_is_loopback, named or hosts))


def _is_loopback(host: str) -> bool:
    if not host or host.startswith("/") or host.partition(":")[0] == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
