"""Addresses that webhooks are posted to, as programs and submits name them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from dspex.errors import FieldError

__all__ = ["is_public", "webhook_faults"]

_ADDRESS = re.compile(r"https?://[!-~]+")
#: Where a network of IPv6 alone reaches addresses of IPv4.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: The most characters of an address.
MOST_CHARACTERS = 2000


def webhook_faults(webhook: object, *, private: bool) -> list[FieldError]:
    """What is wrong with an address. ``private``: it may be one of a private network, and need not have TLS.

    A name is not resolved here: what it stands for is examined each time that a webhook is sent.
    """
    if webhook is None:
        return []
    if not isinstance(webhook, str) or len(webhook) > MOST_CHARACTERS or not _is_address(webhook):
        expected = f"an https:// address of at most {MOST_CHARACTERS} characters, without a user and a fragment"
        return [FieldError("webhook", expected, repr(webhook)[:80])]
    if private:
        return []
    parts = urlsplit(webhook)
    if parts.scheme != "https" or not _may_be_public(str(parts.hostname)):
        expected = "an https:// address of the internet (DSPEX_WEBHOOK_PRIVATE allows others)"
        return [FieldError("webhook", expected, repr(webhook)[:80])]
    return []


def is_public(address: str) -> bool:
    """Whether an address is one of the internet, also where it stands in another: in IPv6, of 6to4, NAT64 or Teredo."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found in _NAT64:
            return _is_global(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        if found.is_reserved or found.is_site_local:
            return False
        teredo = found.teredo
        inner = [found.ipv4_mapped, found.sixtofour, None if teredo is None else teredo[1]]
        if any(each is not None and not _is_global(each) for each in inner):
            return False
    return _is_global(found)


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_global and not address.is_multicast


def _is_address(text: str) -> bool:
    if not _ADDRESS.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0 and not (parts.username or parts.password or parts.fragment)
    except ValueError:
        return False


def _may_be_public(host: str) -> bool:
    """Whether a host is an address of the internet, or a name that may stand for one."""
    name = host.rstrip(".").lower()
    try:
        return is_public(name)
    except ValueError:
        return name != "localhost" and not name.endswith(".localhost")
