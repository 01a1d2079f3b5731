"""Settings for what listens to browsers and HTTP clients: Flower, and the gateway with its console."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from dspex.settings.setting_names import listed, variable

__all__ = ["SCOPES", "FlowerSettings", "ServeSettings", "flower_faults", "is_this_machine", "serve_faults"]

#: Variables of Flower that configure authentication: see its documentation.
_AUTHENTICATION = ("FLOWER_AUTH", "FLOWER_BASIC_AUTH")
#: What a key, or a user that a proxy names, may do: submit executions; read them; cancel, retry, pause and resume; all.
SCOPES = ("submit", "read", "operate", "admin")


def _password(text: SecretStr) -> SecretStr:
    plain = text.get_secret_value()
    if not plain or not plain.isascii() or not plain.isprintable():
        raise ValueError("must be printable ASCII: Flower supports no other characters")
    return text


def _networks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        try:
            ipaddress.ip_network(name)
        except ValueError:
            raise ValueError(f"{name!r} is not an address or a network such as 10.0.0.0/8") from None
    return names


def _scopes(names: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in SCOPES]:
        raise ValueError(f"{', '.join(unknown)}: the scopes are {', '.join(SCOPES)}")
    return names


def _origins(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        scheme, separator, host = name.partition("://")
        if scheme not in ("http", "https") or not separator or not host or "/" in host:
            raise ValueError(f"{name!r} is not an origin such as https://app.example.com")
    return names


_Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)]


class FlowerSettings(BaseModel):
    """Flower."""

    flower_user: str = Field("dspex", pattern=r"^[!-9;-~]{1,100}$", description="The user name for Flower.")
    flower_password: Annotated[SecretStr, AfterValidator(_password)] | None = Field(
        None,
        description="The password for Flower. Without one, Flower listens on this machine only, and does not start in "
        "production.",
    )
    flower_max_tasks: int = Field(
        10_000, ge=100, le=1_000_000, description="The largest number of tasks that Flower keeps in memory."
    )
    flower_max_workers: int = Field(
        1000,
        ge=10,
        le=100_000,
        description="The largest number of workers that Flower keeps in memory, including stopped ones.",
    )


class ServeSettings(BaseModel):
    """HTTP gateway and console."""

    serve_max_streams: int = Field(
        1000, ge=1, le=100_000, description="The most event streams that one gateway process sends at a time."
    )
    serve_max_wait_seconds: float = Field(
        60.0, ge=0, le=3600, description="The longest wait for a result that a request may ask for (Prefer: wait)."
    )
    serve_upload_bytes: int = Field(
        4 * 1024**3, ge=1024, le=1024**4, description="The largest upload of the rows of a batch."
    )
    serve_read_seconds: float = Field(
        30.0, gt=0, le=3600, description="How long a client may pause while it sends a request or reads a response."
    )
    serve_cors_origins: Annotated[_Listed, AfterValidator(_origins)] = Field(
        (), description="The origins of web applications that may send requests from a browser. Not set: none."
    )
    serve_user_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]{1,100}$",
        description="The header in which a proxy that authenticates users sends the name of the user, such as "
        "X-Forwarded-Email. It is read only in requests from DSPEX_SERVE_TRUSTED_PROXIES.",
    )
    serve_user_scopes: Annotated[_Listed, AfterValidator(_scopes)] = Field(
        ("read",), description="What a user named by the proxy may do: submit, read, operate, admin."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="The key that signs webhooks of executions as defined by standardwebhooks.com: whsec_ and base64, "
        "or any text. Not set: they are not signed.",
    )
    webhook_private: bool = Field(
        False,
        description="Whether webhooks of executions may be sent to addresses of private networks and without TLS: for "
        "development, or where only trusted users submit. Set it where programs are submitted and where `dspex serve` "
        "runs.",
    )
    serve_trusted_proxies: Annotated[_Listed, AfterValidator(_networks)] = Field(
        (), description="The addresses or networks of the proxies whose DSPEX_SERVE_USER_HEADER is trusted."
    )


def flower_faults(settings: FlowerSettings, address: str, *, may_be_open: bool) -> list[str]:
    """Why Flower may not listen at this address. ``may_be_open``: it needs no password on this machine."""
    if settings.flower_password or any(os.environ.get(name) for name in _AUTHENTICATION):
        return []
    fix = f"set {variable('flower_password')} (and {variable('flower_user')}), or a file with it"
    if not may_be_open:
        return [f"Flower has no password, and production requires one: {fix}"]
    if not is_this_machine(address):
        return [f"Flower would be open to everyone who can reach {address}: {fix}, or --address 127.0.0.1"]
    return []


def serve_faults(settings: ServeSettings) -> list[str]:
    """Faults in the combination of these settings."""
    if settings.serve_user_header and not settings.serve_trusted_proxies:
        return [
            f"{variable('serve_user_header')} is set, and {variable('serve_trusted_proxies')} is not: every client "
            "could name itself any user"
        ]
    return []


def is_this_machine(address: str) -> bool:
    """Whether only processes of this machine can reach what listens at this address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
