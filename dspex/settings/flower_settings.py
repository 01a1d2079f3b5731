"""Settings for Flower, the dashboard of workers and tasks."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from dspex.settings.setting_names import variable

__all__ = ["FlowerSettings", "flower_faults"]

#: Variables of Flower that configure authentication: see its documentation.
_AUTHENTICATION = ("FLOWER_AUTH", "FLOWER_BASIC_AUTH")


def _password(text: SecretStr) -> SecretStr:
    plain = text.get_secret_value()
    if not plain or not plain.isascii() or not plain.isprintable():
        raise ValueError("must be printable ASCII: Flower supports no other characters")
    return text


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


def flower_faults(settings: FlowerSettings, address: str, *, may_be_open: bool) -> list[str]:
    """Why Flower may not listen at this address. ``may_be_open``: it needs no password on this machine."""
    if settings.flower_password or any(os.environ.get(name) for name in _AUTHENTICATION):
        return []
    fix = f"set {variable('flower_password')} (and {variable('flower_user')}), or a file with it"
    if not may_be_open:
        return [f"Flower has no password, and production requires one: {fix}"]
    if not _is_this_machine(address):
        return [f"Flower would be open to everyone who can reach {address}: {fix}, or --address 127.0.0.1"]
    return []


def _is_this_machine(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
