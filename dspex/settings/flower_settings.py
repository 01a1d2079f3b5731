"""Settings of Flower, the live view of workers and tasks."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from dspex.settings.setting_names import variable

__all__ = ["FlowerSettings", "flower_faults"]

#: Flower's own ways of letting people in: see its documentation.
_OTHER_WAYS = ("FLOWER_AUTH", "FLOWER_BASIC_AUTH")


def _password(text: SecretStr) -> SecretStr:
    plain = text.get_secret_value()
    if not plain or not plain.isascii() or not plain.isprintable():
        raise ValueError("must be printable ASCII: Flower compares no other")
    return text


class FlowerSettings(BaseModel):
    """Flower."""

    flower_user: str = Field(
        "dspex", pattern=r"^[!-9;-~]{1,100}$", description="The name that Flower asks for with its password."
    )
    flower_password: Annotated[SecretStr, AfterValidator(_password)] | None = Field(
        None,
        description="Flower's password; without one it is for this machine only, and production refuses to start it.",
    )
    flower_max_tasks: int = Field(
        10_000, ge=100, le=1_000_000, description="How many tasks Flower remembers: those heard of last."
    )
    flower_max_workers: int = Field(
        1000, ge=10, le=100_000, description="How many workers Flower remembers, those that are gone included."
    )


def flower_faults(settings: FlowerSettings, address: str, *, may_be_open: bool) -> list[str]:
    """Why Flower may not listen at this address; it may be open, without a password, on this machine at most."""
    if settings.flower_password or any(os.environ.get(name) for name in _OTHER_WAYS):
        return []
    remedy = f"set {variable('flower_password')} (and {variable('flower_user')}), or a file with it"
    if not may_be_open:
        return [f"Flower has no password, and production refuses that: {remedy}"]
    if not _is_this_machine(address):
        return [f"Flower would be open to anybody who reaches {address}: {remedy}, or --address 127.0.0.1"]
    return []


def _is_this_machine(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
